"""One run of the bench: what is started, which cases are measured on which database, what is handed on."""

import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Self

from app.errors import ConfigurationError
from benchmarks import cases, databases, postgres_server
from benchmarks.cases import Case
from benchmarks.ceiling import ceiling
from benchmarks.collecting import collect
from benchmarks.crash import crash
from benchmarks.databases import Postgres
from benchmarks.dispatching import dispatch
from benchmarks.drive import Drive
from benchmarks.flood import flood
from benchmarks.machine import Watch
from benchmarks.reference import reference
from benchmarks.slow_disk import slow_disk
from benchmarks.slow_flush import LeftOut
from benchmarks.stage import Another, set_up
from benchmarks.submitting import submit
from benchmarks.two_sizes import Sizes, two_sizes

Say = Callable[[str], None]

CASES: Mapping[str, Case] = {
    **cases.CASES,
    "flood": flood,
    "ceiling": ceiling,
    "submit": submit,
    "dispatch": dispatch,
    "collect": collect,
}
# These want a number that a person may give.
_WITH_NUMBER = ("crash", "slow-flush")
_GROWTH = "growth"  # has figures of its own kind
NAMES = (*CASES, *_WITH_NUMBER, _GROWTH)
_KILLS, _TASKS = 20, 1_000_000


@dataclass(frozen=True, slots=True)
class Options:
    """What a person may choose. Raises ConfigurationError for what cannot be."""

    quick: bool = False
    rounds: int | None = None
    only: tuple[str, ...] = ()
    connections: int = 32
    seconds: float | None = None  # of one measurement
    kills: int | None = None
    slow_flush_ms: float | None = None
    tasks: int | None = None  # of the large one of two databases
    postgres: str | None = None  # somebody's server, by an address

    def __post_init__(self) -> None:
        unknown = sorted(set(self.only) - set(NAMES))
        if unknown:
            raise ConfigurationError(f"--only: there is no case {', '.join(unknown)}; there are {', '.join(NAMES)}")
        if not sys.platform.startswith("linux"):
            raise ConfigurationError("the bench reads /proc and keeps time by timerfd: it runs on Linux")

    @property
    def cases(self) -> Mapping[str, Case]:
        """What is measured, in this order."""
        chosen = list(self.only or (cases.QUICK if self.quick else (*CASES, "crash")))
        chosen += ["crash"] * (self.kills is not None) + ["slow-flush"] * (self.slow_flush_ms is not None)
        every: Mapping[str, Case] = {
            **CASES,
            "crash": partial(crash, kills=self.kills or _KILLS),
            "slow-flush": partial(slow_disk, delay_ms=2.0 if self.slow_flush_ms is None else self.slow_flush_ms),
        }
        return {name: every[name] for name in chosen if name != _GROWTH}

    @property
    def sizes(self) -> Sizes | None:
        """Of the two databases that are compared, where that was asked for."""
        asked = self.tasks is not None or _GROWTH in self.only
        return Sizes.up_to(self.tasks or _TASKS) if asked else None

    @property
    def pace(self) -> tuple[int, float]:
        """Rounds, and seconds of one measurement."""
        return self.rounds or (1 if self.quick else 4), self.seconds or (1.0 if self.quick else 3.0)


def run(options: Options, say: Say) -> dict[str, Any]:
    """Measure what was asked for on both databases; figures by name, null for a database that is not there."""
    with databases.folder() as folder, _Run(options, folder, say) as the_run:
        return the_run.results()


class _Run:
    """What both databases are measured beside, and what is left out."""

    def __init__(self, options: Options, folder: Path, say: Say) -> None:
        self._options, self._folder, self._say = options, folder, say
        self._watch = Watch()
        self._left_out: dict[str, str] = {}
        self._grown: dict[str, Any] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._bare = self._stack.enter_context(reference("bare", self._folder))
        self._hmac = self._stack.enter_context(reference("hmac", self._folder))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def results(self) -> dict[str, Any]:
        # Opened first: an address that is wrong is told before anything is measured.
        with databases.postgres(self._options.postgres) as server:
            self._announce(server)
            sqlite = self._measure("sqlite", self._files())
            if isinstance(server, str):
                self._left_out["postgres"] = server
            postgres = self._measure("postgres", server.database) if isinstance(server, Postgres) else None
        machine = {**self._watch.report(), "file_system": databases.file_system(self._folder)}
        found = {"machine": machine, "sqlite": sqlite, "postgres": postgres, "left_out": self._left_out}
        return {**found, "growth": self._grown} if self._grown else found

    def _announce(self, server: Postgres | str) -> None:
        """Say how much disk the large databases take; one fills after the other."""
        if (sizes := self._options.sizes) is None:
            return
        own = isinstance(server, Postgres) and self._options.postgres is None
        self._say(sizes.announced([self._folder, *([postgres_server.PLACE] if own else [])]))
        self._grown = {"small_tasks": sizes.small, "large_tasks": sizes.large}

    def _measure(self, name: str, another: Another) -> dict[str, float]:
        self._say(f"{name}: starting")
        place = self._folder / name
        place.mkdir()
        rounds, seconds = self._options.pace
        drive = Drive(place, self._options.connections)
        figures: dict[str, float] = {}
        with set_up(name, another, self._bare, self._hmac, place, drive, seconds, rounds) as stage:
            for case, measure in self._options.cases.items():
                self._say(f"{name}: {case}")
                try:
                    figures |= measure(stage)
                except LeftOut as reason:
                    self._left_out[f"{case} on {name}"] = str(reason)
            if self._options.sizes is not None:
                self._say(f"{name}: growth")
                self._grown[name] = two_sizes(stage, self._options.sizes)
            return {**figures, "acknowledged": stage.acknowledged, "unstored": stage.unstored}

    def _files(self) -> Another:
        """SQLite databases, each in a file of its own."""
        numbers = count(1)

        @contextmanager
        def another() -> Generator[str]:
            file = self._folder / f"{next(numbers)}.db"
            yield f"sqlite:///{file}"
            for suffix in ("", "-wal", "-shm"):  # the next ones may be large
                file.with_name(file.name + suffix).unlink(missing_ok=True)

        return another
