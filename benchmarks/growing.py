"""Whether it stays fast: the hot paths of a database that was filled by `growth`, and how two sizes compare."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from app import clock, ids
from app.db import Connection
from app.db.engine.database import Database, open_database
from app.db.tables import tasks
from app.worker import sweep
from benchmarks import hot_paths
from benchmarks.hot_paths import Path, Undone

_WARM, _TIMES = 10, 300  # how often a path is run before it is measured, and then
_GROUPS = 60
_SPREAD = timedelta(days=1)  # between the tasks that are read


@dataclass(frozen=True, slots=True)
class Figures:
    """How long one unit of work took, its transaction included, in milliseconds."""

    median_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Compared:
    """One path at two sizes; `ratio` is that of the medians."""

    path: str
    small: Figures
    large: Figures

    @property
    def ratio(self) -> float:
        return self.large.median_ms / self.small.median_ms

    @property
    def p99_ratio(self) -> float:
        return self.large.p99_ms / self.small.p99_ms


async def measure(
    database_url: str, times: int = _TIMES, warm: int = _WARM, most_groups: int = _GROUPS
) -> dict[str, Figures]:
    """Run each hot path `times` times, after `warm` times that do not count.

    The callbacks of 16 tasks count as one path, which is measured `most_groups` times at most.

    Only for a database that `grow` filled: what is added meanwhile is taken out at the end, with every job there is.
    """
    async with open_database(database_url) as database:
        now = clock.utc_now()
        known = await database.read(lambda connection: _known(connection, now))
        # What the feed was grown with is old.
        await database.write(lambda connection: sweep.upkeep(connection, now, []))
        groups = await database.write(
            lambda connection: hot_paths.prepare(connection, now, warm + min(times, most_groups))
        )
        try:
            found = {name: await _timed(database, path, times, warm) for name, path in _paths(known, now).items()}
            took = []
            for group in groups:
                began = time.perf_counter()
                await database.write(lambda connection, group=group: hot_paths.take(connection, group))  # type: ignore[misc]
                took.append(time.perf_counter() - began)
            return {**found, f"{hot_paths.GROUP} callbacks": _figures(took[warm:])}
        finally:
            await database.write(lambda connection: hot_paths.clean(connection, now))


def compare(small: Mapping[str, Figures], large: Mapping[str, Figures]) -> list[Compared]:
    """The paths that both have, the one that grew most first."""
    both = [Compared(path, small[path], large[path]) for path in small if path in large]
    return sorted(both, key=lambda each: each.ratio, reverse=True)


def _known(connection: Connection, now: datetime) -> list[str]:
    """Tasks of all ages, the youngest first; each once."""
    found: dict[str, None] = {}
    for days in range(180):
        before = ids.first_at("task", now - days * _SPREAD)
        found.update(dict.fromkeys(task.id for task in tasks.newest(connection, limit=2, before=before)))
    return list(found)


def _paths(known: Sequence[str], now: datetime) -> dict[str, tuple[Path, bool]]:
    reading = {name: (path, False) for name, path in hot_paths.reads(known, now).items()}
    return reading | {name: (path, True) for name, path in hot_paths.writes(now).items()}


async def _timed(database: Database, path: tuple[Path, bool], times: int, warm: int) -> Figures:
    work, is_write = path
    run = database.write if is_write else database.read
    took = []
    for _ in range(warm + times):
        began = time.perf_counter()
        with suppress(Undone):
            await run(work)
        took.append(time.perf_counter() - began)
    return _figures(took[warm:])


def _figures(took: Sequence[float]) -> Figures:
    ordered = sorted(took)
    return Figures(ordered[len(ordered) // 2] * 1000, ordered[len(ordered) * 99 // 100] * 1000)
