"""What a worker does beside its jobs."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from app import jobs
from app.heart import _again_and_again, beating
from app.jobs import LEASE, Step
from app.record import Connection
from tests.rows import WORKER, claim
from tests.sockets import until
from tests.world import World, open_world

SECONDS = LEASE.total_seconds()


@pytest.fixture
async def world(tmp_path: Path, postgres_url: str) -> AsyncGenerator[World]:
    async with open_world(tmp_path, postgres_url, worker_id=WORKER) as opened:
        yield opened


async def test_the_jobs_in_hand_of_a_worker_that_lives_are_not_taken_for_lost(world: World) -> None:
    def leave_and_claim(connection: Connection) -> list[jobs.Job]:
        jobs.enqueue(connection, [(Step.COLLECT, "task_1", world.clock())])
        return claim(connection, world.clock())

    (job,) = await world.use.db.write(leave_and_claim)
    world.clock.advance(SECONDS * 0.9)
    before = await world.use.db.read(jobs.next_due)
    assert before is not None

    async def beaten() -> bool:
        due = await world.use.db.read(jobs.next_due)
        return due is not None and due > before

    doing = asyncio.create_task(asyncio.Event().wait())
    async with beating(world.use, {doing: job}):  # type: ignore[dict-item]
        await until(beaten)
    doing.cancel()
    world.clock.advance(SECONDS * 0.9)

    assert await world.use.db.write(lambda connection: jobs.claim(connection, "2" * 32, world.clock(), 9)) == []


async def test_a_duty_that_fails_is_done_again() -> None:
    done = asyncio.Event()
    tries: list[int] = []

    async def duty() -> None:
        tries.append(len(tries))
        if len(tries) == 1:
            raise KeyError
        done.set()

    doing = asyncio.create_task(_again_and_again(duty, 0))
    async with asyncio.timeout(5):
        await done.wait()
    doing.cancel()
