"""What only several workers need: leases; and the maintenance of PgQueuer's tables."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncGenerator
from datetime import datetime

import asyncpg  # type: ignore[import-untyped]
import pytest
from pgqueuer.adapters.persistence.qb import QueryBuilderEnvironment
from pgqueuer.queries import Queries
from sqlalchemy import text

from app import jobs
from app.db import Connection
from app.db.engine.database import Database, open_database
from app.jobs import LEASE, Job, NewJob, Step
from app.jobs.pgqueuer_schema import SETTINGS
from tests.databases import listening_for
from tests.postgres import set_time
from tests.rows import START, stored_jobs

ME, OTHER = "1" * 32, "2" * 32
SOON, LAPSED = START + LEASE / 2, START + LEASE * 1.1


@pytest.fixture
async def database(postgres_url: str) -> AsyncGenerator[Database]:
    async with open_database(postgres_url) as opened:
        yield opened


async def enqueue(database: Database, step: Step = Step.COLLECT, at: datetime = START) -> None:
    await database.write(lambda connection: jobs.enqueue(connection, [NewJob(step, "task_1", at)]))


async def claim(database: Database, holder: str = ME, at: datetime = START, limit: int = 9) -> list[Job]:
    def unit(connection: Connection) -> list[Job]:
        set_time(connection, at)
        return jobs.claim(connection, holder, at, limit)

    return await database.write(unit)


async def test_a_heartbeat_and_the_end_of_a_job_do_not_deadlock(database: Database) -> None:
    """The transaction that ends one job has locked another one, whose key is higher, by enqueuing it again."""
    pause = text("SELECT pg_sleep(0.01)")
    locked, is_renewed, deadlocks = asyncio.Event(), asyncio.Event(), list[object]()
    for step in (Step.DISPATCH, Step.NOTIFY):
        await enqueue(database, step)
    dispatch, notify = sorted(await claim(database), key=lambda job: job.step)

    def end(connection: Connection) -> None:
        jobs.enqueue(connection, [NewJob(notify.step, notify.task_id, START)])
        locked.set()
        for _ in range(1000):
            if is_renewed.is_set():
                break
            connection.execute(pause)
        jobs.finish(connection, dispatch)

    with listening_for(database, "handle_error", deadlocks.append):
        ending = asyncio.create_task(database.write(end))
        await locked.wait()
        left = await database.write(lambda connection: jobs.heartbeat(connection, [dispatch, notify]))
        is_renewed.set()
        await ending

    assert left == [notify]
    assert deadlocks == []


async def test_another_worker_claims_the_jobs_of_a_worker_without_heartbeats(database: Database) -> None:
    await enqueue(database)
    await claim(database)
    soon = await claim(database, OTHER, SOON)
    late = await claim(database, OTHER, LAPSED)

    assert soon == []
    assert [(job.step, job.task_id, job.holder) for job in late] == [(Step.COLLECT, "task_1", OTHER)]


async def test_a_worker_with_heartbeats_keeps_its_jobs(database: Database) -> None:
    await enqueue(database)
    mine = await claim(database)

    def heartbeat(connection: Connection) -> None:
        set_time(connection, SOON)
        jobs.heartbeat(connection, mine)

    await database.write(heartbeat)

    assert await claim(database, OTHER, LAPSED) == []
    assert [job.id for job in await claim(database, OTHER, SOON + LEASE * 1.1)] == [mine[0].id]


@pytest.mark.parametrize("end", ["finish", "retry", "hold"])
async def test_a_worker_without_the_lease_cannot_end_the_job_of_another(database: Database, end: str) -> None:
    await enqueue(database)
    (lost,) = await claim(database)
    (taken,) = await claim(database, OTHER, LAPSED)
    ends = {
        "finish": lambda connection: jobs.finish(connection, lost),
        "retry": lambda connection: jobs.retry(connection, lost, START, "KeyError"),
        "hold": lambda connection: jobs.dead_letter(connection, lost, "KeyError"),
    }
    await database.write(ends[end])
    still = [(job.step, job.state) for job in await database.read(stored_jobs)]
    await database.write(lambda connection: jobs.finish(connection, taken))

    assert still == [(Step.COLLECT, "running")]
    assert await database.read(stored_jobs) == []


async def test_releasing_affects_only_the_jobs_of_the_worker(database: Database) -> None:
    await enqueue(database)
    await claim(database)
    await enqueue(database, Step.RECONCILE)
    await claim(database, OTHER)
    await database.write(lambda connection: jobs.release(connection, ME))

    assert {(job.step, job.state) for job in await database.read(stored_jobs)} == {
        (Step.COLLECT, "waiting"),
        (Step.RECONCILE, "running"),
    }


async def test_the_end_of_a_lease_is_a_due_time(database: Database) -> None:
    await enqueue(database)
    await claim(database)

    due = await database.read(jobs.next_due)
    assert due is not None
    assert START < due <= LAPSED


async def test_a_job_enqueued_while_it_ends_is_never_lost(database: Database) -> None:
    """The second transaction waits for the first: the job runs once more, or a new one is added."""
    for _ in range(20):
        await enqueue(database)
        (job,) = await claim(database)
        await asyncio.gather(
            enqueue(database),
            database.write(lambda connection, job=job: jobs.finish(connection, job)),  # type: ignore[misc]
            enqueue(database),
        )
        (again,) = await claim(database)
        await database.write(lambda connection, job=again: jobs.finish(connection, job))  # type: ignore[misc]

        assert await database.read(stored_jobs) == []


async def test_the_log_of_past_jobs_is_pruned(database: Database) -> None:
    def count(connection: Connection) -> int:
        return int(connection.execute(text("SELECT count(*) FROM pgqueuer_log")).scalar_one())

    def bounds(connection: Connection) -> tuple[int, datetime, datetime]:
        """Return the number of rows in the log, and the times of the first and the last."""
        rows, first, last = connection.execute(
            text("SELECT count(*), min(created), max(created) FROM pgqueuer_log")
        ).one()
        return int(rows), first, last

    await enqueue(database)
    (job,) = await claim(database)
    await database.write(lambda connection: jobs.finish(connection, job))
    before, first, last = await database.read(bounds)
    await database.write(lambda connection: jobs.prune(connection, first))
    kept = await database.read(count)
    await database.write(lambda connection: jobs.prune(connection, last + LEASE))

    assert before > 0
    assert (kept, await database.read(count)) == (before, 0)


async def test_the_schema_is_that_of_the_installed_version_of_pgqueuer(postgres_url: str) -> None:
    connection = await asyncpg.connect(postgres_url)
    await connection.execute("SET search_path TO public")
    queries = Queries.from_asyncpg_connection(connection)
    queries.qbe = QueryBuilderEnvironment(SETTINGS)
    plan = await queries.plan_upgrade()
    await connection.close()

    assert plan.statements == ()


def test_no_environment_variable_renames_the_tables() -> None:
    names = {"FUNCTION": "f", "CHANNEL": "c", "TRIGGER": "t", "QUEUE_TABLE": "q", "PGQUEUER_PREFIX": "elsewhere_"}
    code = "from app.jobs.pgqueuer_schema import *; print(SETTINGS.queue_table, 'elsewhere_' in install())"
    found = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code], env={**os.environ, **names}, capture_output=True, check=True, text=True
    )

    assert found.stdout.split() == ["pgqueuer", "False"]


async def test_a_job_of_one_process_wakes_the_workers_of_the_others(database: Database, postgres_url: str) -> None:
    async with open_database(postgres_url) as other:
        notified = asyncio.Event()
        other.on_jobs(notified.set)
        await asyncio.wait_for(notified.wait(), 30)  # called once it listens
        notified.clear()
        await enqueue(database)
        await asyncio.wait_for(notified.wait(), 30)

    assert len(await claim(database)) == 1
