"""Whether the service stays fast: times the hot paths on a database filled by `growth`, and compares two sizes."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from app import clock, ids
from app.db import Connection
from app.db.engine.database import Database, open_database
from app.db.queries import task_list
from app.db.queries.task_list import TaskFilter
from app.worker import sweep
from benchmarks import hot_paths
from benchmarks.hot_paths import Path, Undone

_WARM, _TIMES = 10, 300  # runs of a path: unmeasured, then measured
_BATCHES = 60
_SPREAD = timedelta(days=1)  # between the ages of the tasks that are read


@dataclass(frozen=True, slots=True)
class Figures:
    """Duration of one unit of work in milliseconds, including its transaction."""

    median_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Compared:
    """One path at two sizes; `ratio` is the ratio of the medians, large/small."""

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
    database_url: str, times: int = _TIMES, warm: int = _WARM, max_batches: int = _BATCHES
) -> dict[str, Figures]:
    """Run each hot path `warm` times unmeasured and then `times` times measured; return the figures by path.

    Settling a batch of 16 callbacks counts as one path, which is measured at most `max_batches` times.

    Only for a database filled by `grow`: rows added by the measurement are deleted at the end, and so are all jobs.
    """
    async with open_database(database_url) as database:
        now = clock.utc_now()
        known = await database.read(lambda connection: _known(connection, now))
        # Prunes the events that expired since the database was filled.
        await database.write(lambda connection: sweep.maintain(connection, now, []))
        batches = await database.write(
            lambda connection: hot_paths.prepare(connection, now, warm + min(times, max_batches))
        )
        try:
            figures = {name: await _timed(database, path, times, warm) for name, path in _paths(known, now).items()}
            durations = []
            for batch in batches:
                began = time.perf_counter()
                await database.write(lambda connection, batch=batch: hot_paths.take(connection, batch))  # type: ignore[misc]
                durations.append(time.perf_counter() - began)
            return {**figures, f"{hot_paths.GROUP} callbacks": _figures(durations[warm:])}
        finally:
            await database.write(lambda connection: hot_paths.clean(connection, now))


def compare(small: Mapping[str, Figures], large: Mapping[str, Figures]) -> list[Compared]:
    """Compare the paths that both have; the largest ratio comes first."""
    both = [Compared(path, small[path], large[path]) for path in small if path in large]
    return sorted(both, key=lambda compared: compared.ratio, reverse=True)


def _known(connection: Connection, now: datetime) -> list[str]:
    """Return the ids of tasks of all ages, newest first, without duplicates."""
    task_ids: dict[str, None] = {}
    for days in range(180):
        before = ids.first_at("task", now - days * _SPREAD)
        task_ids.update(
            dict.fromkeys(task.id for task in task_list.page(connection, TaskFilter(before=before), 2).tasks)
        )
    return list(task_ids)


def _paths(known: Sequence[str], now: datetime) -> dict[str, tuple[Path, bool]]:
    reading = {name: (path, False) for name, path in hot_paths.reads(known, now).items()}
    return reading | {name: (path, True) for name, path in hot_paths.writes(now).items()}


async def _timed(database: Database, path: tuple[Path, bool], times: int, warm: int) -> Figures:
    work, is_write = path
    run = database.write if is_write else database.read
    durations = []
    for _ in range(warm + times):
        began = time.perf_counter()
        with suppress(Undone):
            await run(work)
        durations.append(time.perf_counter() - began)
    return _figures(durations[warm:])


def _figures(durations: Sequence[float]) -> Figures:
    ordered = sorted(durations)
    return Figures(ordered[len(ordered) // 2] * 1000, ordered[len(ordered) * 99 // 100] * 1000)
