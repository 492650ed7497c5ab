"""Every move is in the feed, in order, without any data that a client sent."""

from typing import Any

import pytest
from sqlalchemy import select

from app.db import Connection
from app.db.engine.database import Database
from app.db.tables import events
from app.rules.task import Failure, MoneySpent, Status
from app.transitions import moves
from app.transitions.announce import Announcement, announce
from app.twin import Faults
from tests.calling import done, small, submitted
from tests.rows import START, plan_task
from tests.world import World


def feed(connection: Connection) -> list[tuple[str, str, Any]]:
    table = events.events
    query = select(table.c.task_id, table.c.kind, table.c.data).order_by(table.c.sequence)
    return [(row.task_id, row.kind, row.data) for row in connection.execute(query)]


async def kinds(world: World) -> list[str]:
    return [kind for _, kind, _ in await world.use.db.read(feed)]


async def test_each_state_of_a_successful_task_is_announced(each_world: World) -> None:
    small(each_world)
    task_id = await each_world.post()
    await each_world.go_on(6)

    found = await each_world.use.db.read(feed)

    steps = ["queued", "submitting", "submitted", "ready", "stored"]
    assert found == [(task_id, f"task.{step}", {"status": step, "failure": None}) for step in steps]


async def test_a_duplicate_callback_is_announced_once(each_world: World) -> None:
    caller = await submitted(each_world)
    await done(each_world)

    await caller.call(caller.ready())
    await caller.call(caller.ready())

    assert await kinds(each_world) == ["task.queued", "task.submitting", "task.submitted", "task.ready"]


async def test_a_temporary_refusal_is_announced_as_queued(each_world: World) -> None:
    await submitted(each_world, faults=Faults(submit_429=1))

    assert await kinds(each_world) == ["task.queued", "task.submitting", "task.queued"]


async def test_a_task_that_is_cancelled_given_up_or_reopened_is_announced(database: Database) -> None:
    def unit(connection: Connection) -> list[tuple[str, str, Any]]:
        plan_task(connection, "1")
        plan_task(connection, "2")
        moves.cancel(connection, "task_1", START)
        moves.give_up(connection, "task_2", Failure.DEADLINE_EXCEEDED, MoneySpent.NO, "late", START)
        moves.cancel(connection, "task_2", START)
        moves.resubmit(connection, "task_2", START)
        return feed(connection)

    assert await database.write(unit) == [
        ("task_1", "task.cancelled", {"status": "cancelled", "failure": None}),
        ("task_2", "task.failed", {"status": "failed", "failure": "deadline_exceeded"}),
        ("task_2", "task.queued", {"status": "queued", "failure": None}),
    ]


async def test_a_batch_is_announced_in_order_with_the_key_of_each_task(database: Database) -> None:
    def unit(connection: Connection) -> list[str]:
        for number in range(3):
            plan_task(connection, str(number), key_id=f"key_{number}")
        announce(connection, [Announcement(f"task_{number}", Status.READY) for number in (2, 0, 1)], START)
        table = events.events
        return list(connection.execute(select(table.c.key_id).order_by(table.c.sequence)).scalars())

    assert await database.write(unit) == ["key_2", "key_0", "key_1"]


async def test_a_move_that_is_rolled_back_is_not_announced(database: Database) -> None:
    def unit(connection: Connection) -> None:
        plan_task(connection)
        announce(connection, [Announcement("task_1", Status.READY)], START)
        raise KeyError

    with pytest.raises(KeyError):
        await database.write(unit)

    assert await database.read(feed) == []
