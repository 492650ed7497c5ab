"""A small record and a large one, measured in turn: statements by themselves, and callbacks over HTTP."""

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
from benchmarks.growth import grow
from benchmarks.ours import Ours, execute
from benchmarks.stage import Stage

T = TypeVar("T")

FEWEST = 1000
_FULL, _SMALL, _SHARE = 1_000_000, 100_000, 10
_TASK_BYTES = 5_000  # with all that was said of it, and the indexes
_LOG_BYTES = 2**30  # what PostgreSQL keeps of its log, unless there is less to be written
_ROUNDS, _TIMES = 3, 40
_RATE = 200  # a second: far below what either can do
_WARM_S = 0.4
_GB = 1e9


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many tasks the two have."""

    small: int
    large: int

    @classmethod
    def up_to(cls, tasks: int) -> "Sizes":
        return cls(_SMALL if tasks >= _FULL else tasks // _SHARE, tasks)

    def announced(self, places: Sequence[Path]) -> str:
        """What will be filled, and how much disk that takes. Raises ConfigurationError where there is less."""
        tasks = self.small + self.large
        needed = tasks * _TASK_BYTES + min(tasks * _TASK_BYTES, _LOG_BYTES)
        for place in places:
            free = shutil.disk_usage(place).free
            if free < needed:
                raise ConfigurationError(
                    f"--growth: {self.large:,} tasks need {needed / _GB:.2f} GB in {place}, where {free / _GB:.2f} GB"
                    " are free"
                )
        return f"growth: {self.small:,} tasks beside {self.large:,}, up to {needed / _GB:.2f} GB of disk, for a while"


def two_sizes(stage: Stage, sizes: Sizes, rounds: int = _ROUNDS, times: int = _TIMES) -> dict[str, dict[str, float]]:
    """By path, what grew most first: the ratio large/small of its median and of its p99, and what they are of.

    Each path is run `times` times in each of so many rounds.
    """
    with _filled(stage, sizes.small) as small, _filled(stage, sizes.large) as large:
        alone = _in_turn(partial(_statements, times=times), small, large, rounds)
        with _serving(stage, small, "small") as ours, _serving(stage, large, "large") as grown:
            over_http = _in_turn(_callbacks, ours, grown, stage.rounds)
    compared = compare(alone[0] | over_http[0], alone[1] | over_http[1])
    return {each.path: _shown(each) for each in compared}


@contextmanager
def _filled(stage: Stage, tasks: int) -> Generator[str]:
    """The address of a database with so many finished tasks, at rest."""
    with stage.another() as url:
        asyncio.run(_fill(url, tasks))
        if not url.startswith("sqlite:"):
            asyncio.run(execute(url, "VACUUM ANALYZE", "CHECKPOINT"))  # months would have brought the former
        yield url


async def _fill(url: str, tasks: int) -> None:
    async with open_database(url) as database:
        await catch_up(database)
    await grow(url, tasks)


def _statements(url: str, times: int) -> dict[str, Figures]:
    return asyncio.run(measure(url, times))


@contextmanager
def _serving(stage: Stage, url: str, name: str) -> Generator[Stage]:
    """A second service, warm. What it acknowledged and lost counts for the first one's stage."""
    folder = stage.ours.folder / name
    folder.mkdir()
    with Ours(name, folder, url, stage.ours.signing_key_id).running() as ours:
        ours.await_answer()
        second = replace(stage, ours=ours, acknowledged=0, unstored=0)
        second.full_load(_WARM_S)
        yield second
    stage.acknowledged += second.acknowledged
    stage.unstored += second.unstored


def _callbacks(stage: Stage) -> dict[str, Figures]:
    busy, paced = stage.full_load(), stage.at_rate(_RATE)
    return {
        "callbacks, all connections busy": Figures(1000 / busy.rate, busy.ms(0.99)),
        f"callbacks at {_RATE}/s": Figures(paced.ms(0.5), paced.ms(0.99)),
    }


def _in_turn(
    measured: Callable[[T], dict[str, Figures]], small: T, large: T, rounds: int
) -> tuple[dict[str, Figures], dict[str, Figures]]:
    """The medians of both over the rounds."""
    pairs = [(measured(small), measured(large)) for _ in range(rounds)]
    return _median([each for each, _ in pairs]), _median([each for _, each in pairs])


def _median(rounds: Sequence[Mapping[str, Figures]]) -> dict[str, Figures]:
    return {
        path: Figures(median([each[path].median_ms for each in rounds]), median([each[path].p99_ms for each in rounds]))
        for path in rounds[0]
    }


def _shown(each: Compared) -> dict[str, float]:
    return {
        "ratio": each.ratio,
        "p99_ratio": each.p99_ratio,
        "small_ms": each.small.median_ms,
        "large_ms": each.large.median_ms,
        "small_p99_ms": each.small.p99_ms,
        "large_p99_ms": each.large.p99_ms,
    }
