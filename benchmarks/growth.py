"""Fill a database with finished tasks, as after months of operation."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

from app import clock
from app.db import Connection
from app.db.engine.database import open_database
from app.db.engine.sqlite import file_of
from benchmarks.growth_rows import EVENTS_S, POSTGRES, SQLITE, Batch, Dialect, statements

_PERIOD = timedelta(days=180)
_BATCH = 50_000
_MARGIN = timedelta(minutes=1)  # between the newest task and now
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PARENTS = (
    # API keys and endpoints that the rows refer to. The digests match no API key.
    """INSERT INTO keys (id, name, sha256, scopes, created_at)
       SELECT 'key_' || '000000000000000000000000000000000000' || n, 'grown ' || n, 'grown ' || n, {json}, {now}
       FROM ({series}) AS each WHERE NOT EXISTS (SELECT 1 FROM keys WHERE sha256 = 'grown ' || n)""",
    """INSERT INTO endpoints (id, key_id, url, state, failures, created_at)
       SELECT 'ep_' || '000000000000000000000000000000000000' || n,
           'key_' || '000000000000000000000000000000000000' || n,
           'https://app.example.com/hooks/' || n, 'active', 0, {now}
       FROM ({series}) AS each
       WHERE NOT EXISTS (SELECT 1 FROM endpoints WHERE url = 'https://app.example.com/hooks/' || n)""",
)

Progress = Callable[[int], None]


async def grow(database_url: str, tasks: int, progress: Progress = lambda _: None) -> None:
    """Add this many finished tasks, with their evidence and other rows, to a migrated database without tasks.

    `progress` is called after each batch with the number of tasks so far. Nothing else may use the database during the
    call: SQLite's journal is off. Statistics for the query planner are not gathered here.
    """
    batches = _batches(tasks, clock.utc_now())
    if database_url.startswith("sqlite:"):
        await asyncio.to_thread(_grow_sqlite, file_of(database_url), list(batches), progress)
        return
    async with open_database(database_url) as database:
        for batch in batches:
            await database.write(lambda connection, batch=batch: _run(connection, batch))  # type: ignore[misc]
            progress(batch.last)


def _batches(tasks: int, now: datetime) -> Iterator[Batch]:
    span_us, now_us = _us(_PERIOD), _us(now - _MARGIN - _EPOCH)
    step_us = span_us // tasks // 2 * 2
    start_us = (now_us - tasks * step_us) // 2 * 2
    for first in range(1, tasks + 1, _BATCH):
        last = min(first + _BATCH - 1, tasks)
        yield Batch(first, last, start_us, step_us, now_us - EVENTS_S * 1_000_000)


def _us(span: timedelta) -> int:
    return span // timedelta(microseconds=1)


def _run(connection: Connection, batch: Batch) -> None:
    for statement in (*_parents(POSTGRES, batch), *statements(POSTGRES, batch)):
        connection.exec_driver_sql(statement)


def _parents(dialect: Dialect, batch: Batch) -> list[str]:
    parts = {"json": dialect.json("'[]'"), "now": dialect.instant(str(batch.start_us)), "series": dialect.series(0, 4)}
    return [statement.format(**parts) for statement in _PARENTS]


def _grow_sqlite(path: str, batches: list[Batch], progress: Progress) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-262144", "temp_store=MEMORY"):
            connection.execute(f"PRAGMA {pragma}")
        for batch in batches:
            connection.execute("BEGIN")
            for statement in (*_parents(SQLITE, batch), *statements(SQLITE, batch)):
                connection.execute(statement)
            connection.execute("COMMIT")
            progress(batch.last)
        connection.execute("PRAGMA journal_mode=WAL")
    finally:
        connection.close()
