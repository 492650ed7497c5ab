"""An attempt that was certainly not sent: the database did not confirm that it may be."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from app.db import Connection
from app.db.engine.database import Database, open_database
from app.db.tables import attempts, tasks
from app.dispatch import dispatch
from app.errors import Unavailable
from app.rules.task import Outcome, Status
from app.transitions import moves
from app.twin import Faults
from tests.calling import attempt_of, small
from tests.databases import OneByOne, connection_to
from tests.faults import Trip, lost_commit_answer
from tests.postgres_proxy import proxy_to
from tests.rows import START, plan_task, put_account, take_slot
from tests.sockets import until
from tests.world import World, open_world

T = TypeVar("T")
BEGIN = 2  # the transaction of `dispatch` that records the attempt; the first one reads the task


async def interrupted(world: World) -> str:
    """A task whose dispatch got no answer to the commit before the request."""
    small(world)
    task_id = await world.post()
    with lost_commit_answer(world.use.db, Trip(BEGIN)), pytest.raises(Unavailable):
        await dispatch(world.use, task_id)
    return task_id


class Interrupted(OneByOne):
    """A database that does not commit the first write, and on which something happens before the second."""

    def __init__(self, inner: Database, meanwhile: Callable[[], Awaitable[object]], *, commits: bool) -> None:
        self._inner = inner
        self._meanwhile = meanwhile
        self._commits = commits
        self._writes = 0
        self.dialect = inner.dialect
        self.read = inner.read
        self.on_jobs = inner.on_jobs
        self.on_events = inner.on_events

    async def write(self, work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        self._writes += 1
        if self._writes == 1:
            if self._commits:
                await self._inner.write(work, *args, **kwargs)
            raise Unavailable("the database cannot be reached at the moment")
        if self._writes == 2:
            await self._meanwhile()
        return await self._inner.write(work, *args, **kwargs)


async def test_an_attempt_without_a_confirmed_record_is_withdrawn_and_sent_once(each_world: World) -> None:
    task_id = await interrupted(each_world)
    waiting, attempt = await each_world.task(task_id), await attempt_of(each_world, task_id)
    accepted = each_world.ledger()["accepted"]
    await each_world.go_on(5)
    task, ledger = await each_world.task(task_id), each_world.ledger()

    assert (waiting["status"], attempt.outcome, attempt.sent_at, accepted) == ("queued", Outcome.PLANNED, None, 0)
    assert task["status"] == "stored"
    assert (ledger["accepted"], ledger["charged"]) == (1, 4)
    assert [entry["number"] for entry in await each_world.timeline(task_id, "submission")] == [1]


async def test_a_withdrawal_is_logged_and_keeps_the_slot(each_world: World) -> None:
    with capture_logs() as lines:
        task_id = await interrupted(each_world)
    position = (await each_world.task(task_id))["queue"]

    assert [line["task_id"] for line in lines if line["event"] == "attempt_withdrawn"] == [task_id]
    assert position is None  # it waits for no slot


@pytest.mark.parametrize("commits", [False, True], ids=["not committed", "committed"])
async def test_another_worker_that_dispatches_the_task_meanwhile_sends_it_once(
    each_world: World, commits: bool
) -> None:
    small(each_world)
    task_id, other = await each_world.post(), replace(each_world.use, worker_id="2" * 32)
    database = Interrupted(each_world.use.db, lambda: dispatch(other, task_id), commits=commits)
    with pytest.raises(Unavailable):
        await dispatch(replace(each_world.use, db=database), task_id)
    await each_world.go_on(5)

    assert (await each_world.task(task_id))["status"] == "stored"
    assert (each_world.ledger()["accepted"], each_world.ledger()["charged"]) == (1, 4)


async def test_a_task_that_is_cancelled_meanwhile_is_not_sent(each_world: World) -> None:
    task_id = await each_world.post()
    database = Interrupted(each_world.use.db, lambda: each_world.api.post(f"/v1/tasks/{task_id}/cancel"), commits=True)
    with pytest.raises(Unavailable):
        await dispatch(replace(each_world.use, db=database), task_id)
    await each_world.go_on(5)

    assert (await each_world.task(task_id))["status"] == "cancelled"
    assert each_world.ledger()["accepted"] == 0


async def test_a_task_whose_deadline_passes_meanwhile_is_not_sent(each_world: World) -> None:
    deadline = each_world.clock() + timedelta(minutes=1)
    task_id = await each_world.post(deadline_at=deadline.isoformat())

    async def wait() -> None:
        each_world.clock.advance(90)

    with pytest.raises(Unavailable):
        await dispatch(replace(each_world.use, db=Interrupted(each_world.use.db, wait, commits=True)), task_id)
    await each_world.go_on(5)
    task = await each_world.task(task_id)

    assert (task["failure"]["code"], task["failure"]["money_spent"]) == ("deadline_exceeded", "no")
    assert each_world.ledger()["accepted"] == 0


async def test_an_attempt_that_was_sent_cannot_be_withdrawn(each_world: World) -> None:
    """Not even in the name of its sender, once its answer is known."""
    small(each_world)
    each_world.twin.faults = Faults(drop_callback=1)
    task_id = await each_world.post()
    await each_world.work()
    attempt = await attempt_of(each_world, task_id)
    assert attempt.sender is not None

    withdrawn = [
        await each_world.use.db.write(moves.withdraw, task_id, sender, each_world.clock())
        for sender in ("snd_another", attempt.sender)
    ]

    assert withdrawn == [False, False]
    assert (await each_world.task(task_id))["status"] == "submitted"


async def test_only_its_sender_can_withdraw_an_attempt(each_world: World) -> None:
    each_world.twin.faults = Faults(lose_answer_before=1)
    task_id = await each_world.post()
    await each_world.work()

    assert not await each_world.use.db.write(moves.withdraw, task_id, "snd_another", each_world.clock())
    assert (await each_world.task(task_id))["status"] == "submitting"


async def test_on_postgresql_a_withdrawal_waits_for_the_commit_that_is_still_under_way(postgres_url: str) -> None:
    blocked = text("SELECT count(*) FROM pg_locks WHERE NOT granted")

    def plan(connection: Connection) -> None:
        put_account(connection)
        plan_task(connection)
        take_slot(connection)

    def begin(connection: Connection) -> None:
        moves.begin(connection, "task_1", "account", "sub_1", START)
        attempts.mark_sent(connection, "sub_1", START, callback_requested=True, sender="snd_1")

    async def is_blocked() -> bool:
        return bool(await database.read(lambda connection: connection.execute(blocked).scalar_one()))

    async with open_database(postgres_url) as database, connection_to(postgres_url) as sender:
        await database.write(plan)
        await sender.run_sync(begin)
        withdrawing = asyncio.create_task(database.write(moves.withdraw, "task_1", "snd_1", START))
        await until(is_blocked)
        await sender.commit()

        assert await withdrawing
        task = await database.read(tasks.get, "task_1")
        assert task is not None
        assert task.status is Status.QUEUED


async def test_on_postgresql_a_connection_that_is_cut_at_the_commit_costs_no_slot(
    tmp_path: Path, postgres_url: str
) -> None:
    async with proxy_to(postgres_url) as proxy, open_world(tmp_path, proxy.url) as world:
        small(world)
        task_id = await world.post()
        proxy.marker = b"snd_"
        await world.go_on(10)

        assert proxy.cuts == 1
        assert (await world.task(task_id))["status"] == "stored"
        assert (world.ledger()["accepted"], world.ledger()["charged"]) == (1, 4)
