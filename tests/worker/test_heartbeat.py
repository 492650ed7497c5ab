"""The heartbeats of a worker: the leases of its jobs, and its liveness file."""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from app import jobs
from app.db import Connection
from app.db.engine.database import Database, open_database
from app.jobs import LEASE, NewJob, Step
from app.resources import Resources
from app.worker.heartbeat import Rounds, background_loops, can_work, touch_liveness_file
from tests.databases import OneByOne, listening_for
from tests.rows import WORKER, claim
from tests.schema_rows import reach
from tests.sockets import until
from tests.world import World, open_world

T = TypeVar("T")
SECONDS = LEASE.total_seconds()


@pytest.fixture
async def postgres_world(tmp_path: Path, postgres_url: str) -> AsyncGenerator[World]:
    async with open_world(tmp_path, postgres_url, worker_id=WORKER) as opened:
        yield opened


async def claimed(world: World) -> jobs.Job:
    """A running job whose lease is about to expire."""

    def leave_and_claim(connection: Connection) -> list[jobs.Job]:
        jobs.enqueue(connection, [NewJob(Step.COLLECT, "task_1", world.clock())])
        return claim(connection, world.clock())

    (job,) = await world.use.db.write(leave_and_claim)
    world.clock.advance(SECONDS * 0.9)
    return job


async def keeps_its_job(world: World, job: jobs.Job, use: Resources) -> bool:
    """Whether the worker still has the job after the end of the lease that it was claimed with."""
    before = await world.use.db.read(jobs.next_due)
    assert before is not None

    async def lease_renewed() -> bool:
        due = await world.use.db.read(jobs.next_due)
        return due is not None and due > before

    async with background_loops(use, lambda: [job], every_s=0.01):
        await until(lease_renewed)
    world.clock.advance(SECONDS * 0.9)
    return await world.use.db.write(lambda connection: jobs.claim(connection, "2" * 32, world.clock(), 9)) == []


async def test_a_heartbeat_waits_for_a_job_that_is_locked(postgres_world: World) -> None:
    """Else a job that one transaction after another locks would lose its lease."""
    job = await claimed(postgres_world)
    waits = text("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted), pg_sleep(0.01)")
    locked = asyncio.Event()

    def lock(connection: Connection) -> bool:
        jobs.enqueue(connection, [NewJob(job.step, job.task_id, postgres_world.clock())])
        locked.set()
        return any(connection.execute(waits).one()[0] for _ in range(1000))

    locking = asyncio.create_task(postgres_world.use.db.write(lock))
    await locked.wait()

    assert await keeps_its_job(postgres_world, job, postgres_world.use)
    assert await locking


async def test_a_living_worker_keeps_the_leases_of_its_running_jobs(postgres_world: World) -> None:
    job = await claimed(postgres_world)

    assert await keeps_its_job(postgres_world, job, postgres_world.use)


class Failing(OneByOne):
    """A database whose first writes fail with an unknown error."""

    def __init__(self, inner: Database, times: int) -> None:
        self._inner = inner
        self.left = times
        self.dialect = inner.dialect
        self.read = inner.read
        self.on_jobs = inner.on_jobs
        self.on_events = inner.on_events

    async def write(self, work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        if self.left:
            self.left -= 1
            raise KeyError("unheard of")
        return await self._inner.write(work, *args, **kwargs)


async def test_a_failed_heartbeat_is_retried(postgres_world: World) -> None:
    job, failing = await claimed(postgres_world), Failing(postgres_world.use.db, 2)

    assert await keeps_its_job(postgres_world, job, replace(postgres_world.use, db=failing))
    assert failing.left == 0


async def test_a_worker_whose_database_answers_keeps_its_liveness_file_fresh(each_world: World, tmp_path: Path) -> None:
    file = tmp_path / "heartbeat"
    file.touch()
    os.utime(file, (0, 0))

    async def is_fresh() -> bool:
        return file.stat().st_mtime > 0

    rounds = Rounds(1)
    touching = asyncio.create_task(touch_liveness_file(each_world.use, file, rounds, every_s=0.01))
    await until(is_fresh)
    os.utime(file, (0, 0))
    rounds.ended += 1
    await until(is_fresh)
    touching.cancel()


async def test_a_worker_whose_rounds_do_not_end_does_not_keep_its_liveness_file_fresh(
    world: World, tmp_path: Path
) -> None:
    file, rounds = tmp_path / "heartbeat", Rounds(1)
    checks = 0

    async def exists() -> bool:
        return file.exists()

    def count(_connection: Connection) -> None:
        nonlocal checks
        checks += 1

    with listening_for(world.use.db, "begin", count):
        touching = asyncio.create_task(touch_liveness_file(world.use, file, rounds, every_s=0.001))
        await until(exists)
        file.unlink()
        for _ in range(100):
            await asyncio.sleep(0.001)
        touching.cancel()

    assert (file.exists(), checks) == (False, 1)


async def test_a_liveness_file_that_cannot_be_written_does_not_end_the_worker(world: World, tmp_path: Path) -> None:
    file = tmp_path / "gone" / "heartbeat"

    async def has_failed() -> bool:
        return "heartbeat_not_written" in [line["event"] for line in lines]

    async def exists() -> bool:
        return file.exists()

    with capture_logs() as lines:
        touching = asyncio.create_task(touch_liveness_file(world.use, file, Rounds(1), every_s=0.01))
        await until(has_failed)
        file.parent.mkdir()
        await until(exists)
        touching.cancel()


async def test_a_worker_without_its_database_cannot_work(world: World) -> None:
    async with open_database("postgresql://unknown@127.0.0.1:9/nothing") as away:
        assert not await can_work(replace(world.use, db=away))


async def test_a_worker_whose_schema_is_behind_cannot_work(world: World) -> None:
    await world.use.db.write(lambda connection: reach(connection, "base"))

    assert not await can_work(world.use)
