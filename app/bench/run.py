"""One run of the bench: what is started, which cases are measured on which database, what is handed on."""

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.bench import databases
from app.bench.cases import CASES, QUICK
from app.bench.databases import Postgres
from app.bench.machine import Watch
from app.bench.ours import Ours
from app.bench.stage import Stage, set_up
from app.errors import ConfigurationError

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """What a person may choose. Raises ConfigurationError for what cannot be."""

    quick: bool = False
    rounds: int | None = None
    only: tuple[str, ...] = ()
    connections: int = 32
    seconds: float | None = None  # of one measurement
    postgres: str | None = None  # somebody's server, by an address

    def __post_init__(self) -> None:
        unknown = sorted(set(self.only) - set(CASES))
        if unknown:
            raise ConfigurationError(f"--only: there is no case {', '.join(unknown)}; there are {', '.join(CASES)}")
        if not sys.platform.startswith("linux"):
            raise ConfigurationError("the bench reads /proc and keeps time by timerfd: it runs on Linux")

    @property
    def cases(self) -> tuple[str, ...]:
        return self.only or (QUICK if self.quick else tuple(CASES))

    @property
    def pace(self) -> tuple[int, float]:
        """Rounds, and seconds of one measurement."""
        return self.rounds or (1 if self.quick else 4), self.seconds or (1.5 if self.quick else 3.0)


def run(options: Options, say: Say) -> dict[str, Any]:
    """Measure what was asked for on both databases; figures by name, null for a database that is not there."""
    watch = Watch()
    results: dict[str, Any] = {"sqlite": None, "postgres": None, "left_out": {}}
    with databases.folder() as folder:
        say(f"on SQLite: {', '.join(options.cases)}")
        results["sqlite"] = _on_sqlite(options, folder, say)
        with databases.postgres(options.postgres) as server:
            if isinstance(server, str):
                results["left_out"]["postgres"] = server
                say(server)
            else:
                say(f"on PostgreSQL: {', '.join(options.cases)}")
                results["postgres"] = _on_postgres(options, server, folder, say)
        machine = {**watch.report(), "file_system": databases.file_system(folder)}
    return {"machine": machine, **results}


def _on_sqlite(options: Options, folder: Path, say: Say) -> dict[str, float]:
    place = _made(folder / "sqlite")
    with _staged(options, f"sqlite:///{place}/data/fluxhook.db", f"sqlite:///{place}/naive.db", place) as stage:
        return _measure(options, stage, say)


def _on_postgres(options: Options, server: Postgres, folder: Path, say: Say) -> dict[str, float]:
    with (
        server.database() as url,
        server.database() as naive_url,
        _staged(options, url, naive_url, _made(folder / "postgres")) as stage,
    ):
        return _measure(options, stage, say)


@contextmanager
def _staged(options: Options, url: str, naive_url: str, place: Path) -> Generator[Stage]:
    rounds, seconds = options.pace
    ours = Ours(place.name, place, url)
    with set_up(ours, naive_url, place, connections=options.connections, seconds=seconds, rounds=rounds) as stage:
        yield stage


def _measure(options: Options, stage: Stage, say: Say) -> dict[str, float]:
    figures: dict[str, float] = {}
    for name in options.cases:
        say(f"  {name}")
        figures |= CASES[name](stage)
    return {**figures, "acknowledged": stage.acknowledged, "unstored": stage.unstored}


def _made(place: Path) -> Path:
    place.mkdir()
    return place
