"""The background loops of a worker."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

from app import jobs
from app.db import Connection
from app.db.engine.database import Database
from app.jobs import LEASE, Step
from app.resources import Resources
from app.worker.heartbeat import heartbeats
from tests.databases import OneByOne
from tests.rows import WORKER, claim
from tests.sockets import until
from tests.world import World, open_world

T = TypeVar("T")
SECONDS = LEASE.total_seconds()


@pytest.fixture
async def world(tmp_path: Path, postgres_url: str) -> AsyncGenerator[World]:
    async with open_world(tmp_path, postgres_url, worker_id=WORKER) as opened:
        yield opened


async def claimed(world: World) -> jobs.Job:
    """A running job whose lease is about to expire."""

    def leave_and_claim(connection: Connection) -> list[jobs.Job]:
        jobs.enqueue(connection, [(Step.COLLECT, "task_1", world.clock())])
        return claim(connection, world.clock())

    (job,) = await world.use.db.write(leave_and_claim)
    world.clock.advance(SECONDS * 0.9)
    return job


async def kept_by_beats(world: World, job: jobs.Job, use: Resources) -> bool:
    """Whether the worker still has the job after the end of the lease that it was claimed with."""
    before = await world.use.db.read(jobs.next_due)
    assert before is not None

    async def beaten() -> bool:
        due = await world.use.db.read(jobs.next_due)
        return due is not None and due > before

    doing: asyncio.Task[None] = asyncio.create_task(asyncio.sleep(600))
    async with heartbeats(use, {doing: job}, every_s=0.01):
        await until(beaten)
    doing.cancel()
    world.clock.advance(SECONDS * 0.9)
    return await world.use.db.write(lambda connection: jobs.claim(connection, "2" * 32, world.clock(), 9)) == []


async def test_a_living_worker_keeps_the_leases_of_its_running_jobs(world: World) -> None:
    job = await claimed(world)

    assert await kept_by_beats(world, job, world.use)


class Failing(OneByOne):
    """A database whose first writes fail with an unknown error."""

    def __init__(self, inner: Database, times: int) -> None:
        self._inner = inner
        self.left = times
        self.dialect = inner.dialect
        self.read = inner.read
        self.on_signal = inner.on_signal
        self.on_event = inner.on_event

    async def write(self, work: Callable[[Connection], T]) -> T:
        if self.left:
            self.left -= 1
            raise KeyError("unheard of")
        return await self._inner.write(work)


async def test_a_failed_heartbeat_is_retried(world: World) -> None:
    job, failing = await claimed(world), Failing(world.use.db, 2)

    assert await kept_by_beats(world, job, replace(world.use, db=failing))
    assert failing.left == 0
