"""What only many workers need: leases, and PgQueuer's own tables kept in order."""

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
from app.jobs import LEASE, Job, Step
from app.jobs.pgqueuer_schema import SETTINGS
from tests.databases import listening_for
from tests.postgres import set_time
from tests.rows import START, jobs_left

ME, OTHER = "1" * 32, "2" * 32
SOON, LAPSED = START + LEASE / 2, START + LEASE * 1.1


@pytest.fixture
async def database(postgres_url: str) -> AsyncGenerator[Database]:
    async with open_database(postgres_url) as opened:
        yield opened


async def leave(database: Database, step: Step = Step.COLLECT, at: datetime = START) -> None:
    await database.write(lambda connection: jobs.enqueue(connection, [(step, "task_1", at)]))


async def claim(database: Database, holder: str = ME, at: datetime = START, limit: int = 9) -> list[Job]:
    def unit(connection: Connection) -> list[Job]:
        set_time(connection, at)
        return jobs.claim(connection, holder, at, limit)

    return await database.write(unit)


async def test_a_heart_beat_and_who_asks_for_the_same_jobs_again_do_not_wait_for_each_other(database: Database) -> None:
    blocked = text("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted), pg_sleep(0.01)")
    asked, deadlocks = asyncio.Event(), list[object]()
    first, second = (Step.NOTIFY, "ep_1", START), (Step.NOTIFY, "ep_2", START)

    def ask_again(connection: Connection) -> None:
        jobs.enqueue(connection, [first])
        asked.set()
        while not connection.execute(blocked).one()[0]:
            pass
        jobs.enqueue(connection, [second])

    for wanted in (second, first):  # so they lie in the table
        await database.write(lambda connection, wanted=wanted: jobs.enqueue(connection, [wanted]))  # type: ignore[misc]
    in_hand = await claim(database)
    with listening_for(database, "handle_error", deadlocks.append):
        asking = asyncio.create_task(database.write(ask_again))
        await asked.wait()
        await database.write(lambda connection: jobs.heartbeat(connection, in_hand))
        await asking

    assert len(in_hand) == 2
    assert deadlocks == []


async def test_the_jobs_of_a_worker_that_is_not_heard_of_any_more_are_done_by_another(database: Database) -> None:
    await leave(database)
    await claim(database)
    soon = await claim(database, OTHER, SOON)
    late = await claim(database, OTHER, LAPSED)

    assert soon == []
    assert [(job.step, job.task_id, job.holder) for job in late] == [(Step.COLLECT, "task_1", OTHER)]


async def test_a_worker_that_is_heard_of_keeps_its_jobs(database: Database) -> None:
    await leave(database)
    mine = await claim(database)

    def heartbeat(connection: Connection) -> None:
        set_time(connection, SOON)
        jobs.heartbeat(connection, mine)

    await database.write(heartbeat)

    assert await claim(database, OTHER, LAPSED) == []
    assert [job.id for job in await claim(database, OTHER, SOON + LEASE * 1.1)] == [mine[0].id]


@pytest.mark.parametrize("end", ["finish", "retry", "hold"])
async def test_who_lost_the_lease_ends_nothing_that_another_worker_is_doing(database: Database, end: str) -> None:
    await leave(database)
    (lost,) = await claim(database)
    (taken,) = await claim(database, OTHER, LAPSED)
    ends = {
        "finish": lambda connection: jobs.finish(connection, lost),
        "retry": lambda connection: jobs.retry(connection, lost, START, "KeyError"),
        "hold": lambda connection: jobs.dead_letter(connection, lost, "KeyError"),
    }
    await database.write(ends[end])
    still = [(each.step, each.state) for each in await database.read(jobs_left)]
    await database.write(lambda connection: jobs.finish(connection, taken))

    assert still == [(Step.COLLECT, "running")]
    assert await database.read(jobs_left) == []


async def test_a_worker_that_stops_gives_back_its_own_jobs_and_no_others(database: Database) -> None:
    await leave(database)
    await claim(database)
    await leave(database, Step.RECONCILE)
    await claim(database, OTHER)
    await database.write(lambda connection: jobs.release(connection, ME))

    assert {(each.step, each.state) for each in await database.read(jobs_left)} == {
        (Step.COLLECT, "waiting"),
        (Step.RECONCILE, "running"),
    }


async def test_a_lapsed_lease_is_something_to_wake_up_for(database: Database) -> None:
    await leave(database)
    await claim(database)

    due = await database.read(jobs.next_due)
    assert due is not None
    assert START < due <= LAPSED


async def test_a_wish_for_a_job_that_is_just_ending_is_never_lost(database: Database) -> None:
    """Whoever comes second waits for the first: the job runs once more, or the wish makes a new one."""
    for _ in range(20):
        await leave(database)
        (job,) = await claim(database)
        await asyncio.gather(
            leave(database),
            database.write(lambda connection, job=job: jobs.finish(connection, job)),  # type: ignore[misc]
            leave(database),
        )
        (again,) = await claim(database)
        await database.write(lambda connection, job=again: jobs.finish(connection, job))  # type: ignore[misc]

        assert await database.read(jobs_left) == []


async def test_the_engines_notes_of_past_jobs_are_pruned(database: Database) -> None:
    def notes(connection: Connection) -> int:
        return int(connection.execute(text("SELECT count(*) FROM pgqueuer_log")).scalar_one())

    def noted(connection: Connection) -> tuple[int, datetime, datetime]:
        """How many notes there are, and when the first and the last were made."""
        count, first, last = connection.execute(
            text("SELECT count(*), min(created), max(created) FROM pgqueuer_log")
        ).one()
        return int(count), first, last

    await leave(database)
    (job,) = await claim(database)
    await database.write(lambda connection: jobs.finish(connection, job))
    before, first, last = await database.read(noted)
    await database.write(lambda connection: jobs.prune(connection, first))
    kept = await database.read(notes)
    await database.write(lambda connection: jobs.prune(connection, last + LEASE))

    assert before > 0
    assert (kept, await database.read(notes)) == (before, 0)


async def test_pgqueuer_finds_its_schema_as_this_version_of_it_wants_it(postgres_url: str) -> None:
    connection = await asyncpg.connect(postgres_url)
    await connection.execute("SET search_path TO public")
    queries = Queries.from_asyncpg_connection(connection)
    queries.qbe = QueryBuilderEnvironment(SETTINGS)
    plan = await queries.plan_upgrade()
    await connection.close()

    assert plan.statements == ()


def test_no_variable_of_the_surroundings_renames_the_tables() -> None:
    names = {"FUNCTION": "f", "CHANNEL": "c", "TRIGGER": "t", "QUEUE_TABLE": "q", "PGQUEUER_PREFIX": "elsewhere_"}
    ask = "from app.jobs.pgqueuer_schema import *; print(SETTINGS.queue_table, 'elsewhere_' in install())"
    found = subprocess.run(  # noqa: S603
        [sys.executable, "-c", ask], env={**os.environ, **names}, capture_output=True, check=True, text=True
    )

    assert found.stdout.split() == ["pgqueuer", "False"]


async def test_a_job_that_one_process_leaves_wakes_the_workers_of_the_others(
    database: Database, postgres_url: str
) -> None:
    async with open_database(postgres_url) as other:
        told = asyncio.Event()
        other.on_signal(told.set)
        await asyncio.wait_for(told.wait(), 30)  # it listens
        told.clear()
        await leave(database)
        await asyncio.wait_for(told.wait(), 30)

    assert len(await claim(database)) == 1
