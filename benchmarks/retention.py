"""`python -m benchmarks.retention N`: how long retention takes on a database of N tasks, half of which are due.

Prints, for SQLite and PostgreSQL, the time of a sweep that finds nothing due, and for each class of data that of the
look for due tasks and of the transactions that delete.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import typer

from app import clock
from app.db import Connection
from app.db.engine.database import open_database
from app.db.migrations.migrate import catch_up
from app.db.queries import retention
from app.db.tables import applications
from app.resources import Resources
from app.rules.retention import DataClass, Retention
from app.settings import Settings
from app.transitions.retention import end
from app.wiring import open_resources
from app.worker.retention import groups, prune
from benchmarks import databases
from benchmarks.figures import median, percentile
from benchmarks.growth import grow
from benchmarks.ours import execute

T = TypeVar("T")

_DUE = timedelta(days=90)  # the database holds the tasks of 180 days
_NEVER = timedelta(days=36_500)
_TASKS, _BATCH, _BATCHES = 1_000_000, 100, 100
_APPLICATIONS = 5  # of the keys that `grow` makes


async def _timed(work: Awaitable[T]) -> tuple[T, float]:
    """Return a result, and how long it took in milliseconds."""
    began = time.monotonic()
    return await work, (time.monotonic() - began) * 1000


async def fill(url: str, tasks: int) -> None:
    """Migrate an empty database, and add finished tasks and their applications."""
    async with open_database(url) as database:
        await catch_up(database)
    await grow(url, tasks)
    async with open_database(url) as database:
        await database.write(_add_applications)
    if not url.startswith("sqlite:"):
        await execute(url, "VACUUM ANALYZE", "CHECKPOINT")


def _add_applications(connection: Connection) -> None:
    for number in range(_APPLICATIONS):
        application_id = applications.id_of_key(f"key_{'0' * 36}{number}")
        applications.ensure(connection, application_id, f"grown {number}", clock.utc_now())


async def measure(use: Resources) -> list[str]:
    """Return a line for each unit of work."""
    idle = replace(use, retention=Retention(_NEVER, _NEVER, _NEVER, _NEVER))
    await prune(idle)
    lines = [f"{'sweep, nothing due':24}{(await _timed(prune(idle)))[1]:10.1f} ms"]
    for data in DataClass:
        limited = replace(use, retention=Retention(**{data: _DUE}))
        (group,) = groups(limited, data, {})
        found, look_ms = await _timed(use.db.read(retention.due, group))
        times, deleted = list[float](), 0
        for number in range(_BATCHES):
            of = found[number % len(found)]
            done, took = await _timed(use.db.write(end, group, of, use.now(), _BATCH))
            deleted += done.deleted
            times.append(took)
        rate = _BATCH * len(times) / sum(times) * 1000
        figures = f"median {median(times):.1f} ms, p99 {percentile(times, 0.99):.1f} ms, {rate:,.0f} tasks/s"
        lines.append(
            f"{data:24}{look_ms:10.1f} ms to find, transactions of {_BATCH} tasks: {figures}; {deleted} deleted"
        )
    return lines


async def run(url: str, folder: Path, tasks: int) -> None:
    _, filled_ms = await _timed(fill(url, tasks))
    typer.echo(f"{url.partition(':')[0]}: {tasks:,} tasks, filled in {filled_ms / 1000:.0f} s")
    settings = Settings.model_validate(
        {
            "data_dir": folder,
            "database_url": url,
            "bfl_api_key": "bench",
            "admin_key": "an admin key of the benchmark alone",
            "secret_keys": "a secret key of the benchmark alone",
        }
    )
    async with open_resources(settings) as use:
        for line in await measure(use):
            typer.echo(f"  {line}")


def main() -> None:
    tasks = int(sys.argv[1]) if len(sys.argv) > 1 else _TASKS
    with databases.folder() as folder:
        asyncio.run(run(f"sqlite:///{folder / 'fluxhook.db'}", folder, tasks))
    with databases.folder() as folder, databases.postgres(None) as server:
        if isinstance(server, str):
            sys.exit(f"PostgreSQL: {server}")
        with server.database() as url:
            asyncio.run(run(url, folder, tasks))


if __name__ == "__main__":
    main()
