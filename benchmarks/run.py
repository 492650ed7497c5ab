"""One run of the benchmark: starts the processes and measures the chosen cases on both databases."""

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
from benchmarks.neighbours import neighbours
from benchmarks.reference import reference
from benchmarks.scale_out import scale_out
from benchmarks.slow_disk import slow_disk
from benchmarks.slow_flush import LeftOut
from benchmarks.stage import Another, set_up
from benchmarks.submitting import submit
from benchmarks.two_sizes import Sizes, two_sizes
from benchmarks.whole_task import task

Say = Callable[[str], None]  # prints a line of progress

CASES: Mapping[str, Case] = {
    **cases.CASES,
    "flood": flood,
    "neighbours": neighbours,
    "ceiling": ceiling,
    "submit": submit,
    "dispatch": dispatch,
    "collect": collect,
    "task": task,
    "scale": scale_out,
}
# Cases with a number that an option sets.
_WITH_NUMBER = ("crash", "slow-flush")
_GROWTH = "growth"  # has a separate kind of figures
NAMES = (*CASES, *_WITH_NUMBER, _GROWTH)
_KILLS, _TASKS = 20, 1_000_000


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a run. Raises ConfigurationError for invalid ones."""

    quick: bool = False
    rounds: int | None = None
    only: tuple[str, ...] = ()
    connections: int = 32
    seconds: float | None = None  # of one measurement
    kills: int | None = None
    slow_flush_ms: float | None = None
    tasks: int | None = None  # in the larger database
    postgres: str | None = None  # the address of a server

    def __post_init__(self) -> None:
        unknown = sorted(set(self.only) - set(NAMES))
        if unknown:
            raise ConfigurationError(f"--only: no case {', '.join(unknown)}; the cases are {', '.join(NAMES)}")
        if not sys.platform.startswith("linux"):
            raise ConfigurationError("the benchmark needs Linux, because it uses /proc and timerfd")

    @property
    def cases(self) -> Mapping[str, Case]:
        """The cases to measure, in this order."""
        chosen = list(self.only or (cases.QUICK if self.quick else (*CASES, "crash")))
        chosen += ["crash"] * (self.kills is not None) + ["slow-flush"] * (self.slow_flush_ms is not None)
        available: Mapping[str, Case] = {
            **CASES,
            "crash": partial(crash, kills=self.kills or _KILLS),
            "slow-flush": partial(slow_disk, delay_ms=2.0 if self.slow_flush_ms is None else self.slow_flush_ms),
        }
        return {name: available[name] for name in chosen if name != _GROWTH}

    @property
    def sizes(self) -> Sizes | None:
        """The sizes of the two databases to compare; None if not requested."""
        is_requested = self.tasks is not None or _GROWTH in self.only
        return Sizes.up_to(self.tasks or _TASKS) if is_requested else None

    @property
    def pace(self) -> tuple[int, float]:
        """The number of rounds, and the seconds of one measurement."""
        return self.rounds or (1 if self.quick else 4), self.seconds or (1.0 if self.quick else 3.0)


def run(options: Options, say: Say) -> dict[str, Any]:
    """Measure on both databases. Return the results by name; the figures of an unavailable database are None."""
    with databases.folder() as folder, _Run(options, folder, say) as one_run:
        return one_run.results()


class _Run:
    """The reference servers that both databases share, and the list of what is left out."""

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
        # Opened first, so that a wrong address is reported before anything is measured.
        with databases.postgres(self._options.postgres) as server:
            self._announce(server)
            sqlite = self._measure("sqlite", self._files())
            if isinstance(server, str):
                self._left_out["postgres"] = server
            postgres = self._measure("postgres", server.database) if isinstance(server, Postgres) else None
        machine = {**self._watch.report(), "file_system": databases.file_system(self._folder)}
        results = {"machine": machine, "sqlite": sqlite, "postgres": postgres, "left_out": self._left_out}
        return {**results, "growth": self._grown} if self._grown else results

    def _announce(self, server: Postgres | str) -> None:
        """Report how much disk the two sizes take; the engines use it one after the other."""
        if (sizes := self._options.sizes) is None:
            return
        is_temporary = isinstance(server, Postgres) and self._options.postgres is None
        self._say(sizes.announcement([self._folder, *([postgres_server.PLACE] if is_temporary else [])]))
        self._grown = {"small_tasks": sizes.small, "large_tasks": sizes.large}

    def _measure(self, name: str, another: Another) -> dict[str, float]:
        self._say(f"{name}: starting")
        folder = self._folder / name
        folder.mkdir()
        rounds, seconds = self._options.pace
        drive = Drive(folder, self._options.connections)
        figures: dict[str, float] = {}
        with set_up(name, another, self._bare, self._hmac, folder, drive, seconds, rounds) as stage:
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
        """Return a factory of SQLite databases, each in its own file."""
        numbers = count(1)

        @contextmanager
        def another() -> Generator[str]:
            file = self._folder / f"{next(numbers)}.db"
            yield f"sqlite:///{file}"
            for suffix in ("", "-wal", "-shm"):  # free the disk for the next ones, which may be large
                file.with_name(file.name + suffix).unlink(missing_ok=True)

        return another
