"""A small and a large database, measured in turn: statements alone, callbacks over HTTP, and whole tasks."""

import asyncio
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from app.db.engine.database import open_database
from app.db.migrations.migrate import catch_up
from app.errors import ConfigurationError
from benchmarks.figures import median
from benchmarks.growing import Compared, Figures, compare, measure
from benchmarks.grown_tasks import WAITING_SHARE, whole_tasks
from benchmarks.growth import grow
from benchmarks.ours import Ours, execute
from benchmarks.stage import Stage

T = TypeVar("T")

FEWEST = 1000
_FULL, _SMALL, _SHARE = 1_000_000, 100_000, 10
_TASK_BYTES = 5_000  # disk per task, with its evidence, other rows and indexes
_LOG_BYTES = 2**30  # disk that the log of PostgreSQL takes at most
_ROUNDS, _TIMES = 3, 40
_RATE = 200  # per second: far below the capacity of both
_WARM_S = 0.4
_GB = 1e9


@dataclass(frozen=True, slots=True)
class Sizes:
    """The number of tasks in each database."""

    small: int
    large: int

    @classmethod
    def up_to(cls, tasks: int) -> "Sizes":
        """A million tasks or more are compared with 100,000, fewer with a tenth."""
        return cls(_SMALL if tasks >= _FULL else tasks // _SHARE, tasks)

    def announcement(self, places: Sequence[Path]) -> str:
        """Describe the sizes and the disk they need. Raises ConfigurationError if a place has less free."""
        tasks = self.small + self.large
        needed = tasks * _TASK_BYTES + min(tasks * _TASK_BYTES, _LOG_BYTES)
        for place in places:
            free = shutil.disk_usage(place).free
            if free < needed:
                raise ConfigurationError(
                    f"--growth: {self.large:,} tasks need {needed / _GB:.2f} GB in {place}, but only "
                    f"{free / _GB:.2f} GB are free"
                )
        return f"growth: {self.small:,} tasks compared with {self.large:,}, using up to {needed / _GB:.2f} GB of disk"


def two_sizes(stage: Stage, sizes: Sizes, rounds: int = _ROUNDS, times: int = _TIMES) -> dict[str, dict[str, float]]:
    """Return, by path, the ratios large/small of median and p99, and the milliseconds behind them.

    The path with the largest ratio comes first. Each round runs each path `times` times.
    """
    with _filled(stage, sizes.small) as small, _filled(stage, sizes.large) as large:
        statements = _in_turn(partial(_statements, times=times), small, large, rounds)
        # Before the callbacks, which leave thousands of images to collect.
        tasks = whole_tasks(stage, (small, large), [count // WAITING_SHARE for count in (sizes.small, sizes.large)])
        with _serving(stage, small, "small") as small_service, _serving(stage, large, "large") as large_service:
            over_http = _in_turn(_callbacks, small_service, large_service, stage.rounds)
    compared = compare(statements[0] | over_http[0] | tasks[0], statements[1] | over_http[1] | tasks[1])
    return {comparison.path: _shown(comparison) for comparison in compared}


@contextmanager
def _filled(stage: Stage, tasks: int) -> Generator[str]:
    """Yield the address of a database with this many finished tasks."""
    with stage.another() as url:
        asyncio.run(_fill(url, tasks))
        if not url.startswith("sqlite:"):
            asyncio.run(execute(url, "VACUUM ANALYZE", "CHECKPOINT"))  # in operation autovacuum does the former
        yield url


async def _fill(url: str, tasks: int) -> None:
    async with open_database(url) as database:
        await catch_up(database)
    await grow(url, tasks)


def _statements(url: str, times: int) -> dict[str, Figures]:
    return asyncio.run(measure(url, times))


@contextmanager
def _serving(stage: Stage, url: str, name: str) -> Generator[Stage]:
    """Run a second service, warmed up. Its acknowledged and unstored callbacks are added to `stage`."""
    folder = stage.ours.folder / name
    folder.mkdir()
    with Ours(name, folder, url, stage.ours.signing_key_id).running() as ours:
        ours.await_answer()
        other = replace(stage, ours=ours, acknowledged=0, unstored=0)
        other.full_load(_WARM_S)
        yield other
    stage.acknowledged += other.acknowledged
    stage.unstored += other.unstored


def _callbacks(stage: Stage) -> dict[str, Figures]:
    busy, paced = stage.full_load(), stage.at_rate(_RATE)
    return {
        "callbacks, all connections busy": Figures(1000 / busy.rate, busy.ms(0.99)),
        f"callbacks at {_RATE}/s": Figures(paced.ms(0.5), paced.ms(0.99)),
    }


def _in_turn(
    measured: Callable[[T], dict[str, Figures]], small: T, large: T, rounds: int
) -> tuple[dict[str, Figures], dict[str, Figures]]:
    """Return the medians of both databases over the rounds."""
    pairs = [(measured(small), measured(large)) for _ in range(rounds)]
    return _median([figures for figures, _ in pairs]), _median([figures for _, figures in pairs])


def _median(rounds: Sequence[Mapping[str, Figures]]) -> dict[str, Figures]:
    return {
        path: Figures(
            median([figures[path].median_ms for figures in rounds]),
            median([figures[path].p99_ms for figures in rounds]),
        )
        for path in rounds[0]
    }


def _shown(compared: Compared) -> dict[str, float]:
    return {
        "ratio": compared.ratio,
        "p99_ratio": compared.p99_ratio,
        "small_ms": compared.small.median_ms,
        "large_ms": compared.large.median_ms,
        "small_p99_ms": compared.small.p99_ms,
        "large_p99_ms": compared.large.p99_ms,
    }
