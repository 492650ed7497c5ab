import asyncio
from dataclasses import replace

import pytest
from sqlalchemy import text

from app.db import Connection
from app.db.engine.database import Database, open_database
from app.db.tables import provider_accounts, results, slots, tasks
from app.rules.task import Failure, MoneySpent, Status, sources
from app.transitions import moves
from app.webhooks import outbox
from app.webhooks.outbox import Reached
from tests.databases import listening_for
from tests.rows import START, plan_task, put_account, take_slot

IMAGE = results.Result(
    task_id="task_1",
    store_key="results/ab/ab.png",
    sha256="ab",
    media_type="image/png",
    bytes=3,
    width=2,
    height=1,
    stored_at=START,
)


def moved(connection: Connection, target: Status) -> bool:
    """Make the move to `target`."""
    match target:
        case Status.SUBMITTING:
            return moves.begin(connection, "task_1", "account", "sub_2", START)
        case Status.STORED:
            return moves.store(connection, IMAGE)
        case _:
            return moves.give_up(connection, "task_1", Failure.ASSET_LOST, MoneySpent.YES, "gone", START)


@pytest.mark.parametrize("target", [Status.SUBMITTING, Status.STORED, Status.FAILED])
async def test_each_move_is_made_exactly_from_the_allowed_states(database: Database, target: Status) -> None:
    def unit(connection: Connection) -> dict[Status, bool]:
        made = {}
        for status in Status:
            plan_task(connection)
            take_slot(connection)
            connection.execute(tasks.tasks.update().values(status=status))
            made[status] = moved(connection, target)
            for table in (
                tasks.tasks,
                results.results,
                slots.slots,
                tasks.tasks.metadata.tables["submissions"],
            ):
                connection.execute(table.delete())
        return made

    assert await database.write(unit) == {status: status in sources(target) for status in Status}


async def test_on_postgresql_expiring_tasks_waits_for_no_lock_while_it_holds_the_account(postgres_url: str) -> None:
    blocked = text("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted), pg_sleep(0.01)")
    told = asyncio.Event()
    deadlocks: list[object] = []

    def ready(connection: Connection) -> None:
        put_account(connection)
        for number, name in enumerate("ab", 1):
            plan_task(connection, name, webhook_url=f"https://{name}.example", webhook_form="event")
            take_slot(connection, name, number)

    def tell_and_free(connection: Connection) -> None:
        """As a callback for another task with the same webhook URL does."""
        outbox.plan(connection, [Reached("task_b", Status.FAILED)], START)
        told.set()
        while not connection.execute(blocked).one()[0]:
            pass
        provider_accounts.lock(connection, "account")

    async with open_database(postgres_url) as database, asyncio.timeout(120):
        await database.write(ready)
        both = ["task_a", "task_b"]
        with listening_for(database, "handle_error", deadlocks.append):
            freeing = asyncio.create_task(database.write(tell_and_free))
            await told.wait()
            ended = await database.write(
                lambda connection: moves.expire(connection, both, Failure.DEADLINE_EXCEEDED, "late", START)
            )
            await freeing

        assert ended == both
        assert deadlocks == []
        assert await database.read(lambda connection: slots.of_accounts(connection, "account")) == []


async def test_begin_sets_the_current_attempt(database: Database) -> None:
    def unit(connection: Connection) -> tasks.Task | None:
        plan_task(connection)
        take_slot(connection)
        moves.begin(connection, "task_1", "account", "sub_2", START)
        return tasks.get(connection, "task_1")

    task = await database.write(unit)

    assert task is not None
    assert (task.attempt_id, task.submitting_at) == ("sub_2", START)


async def test_a_task_is_stored_once_and_keeps_its_first_result(database: Database) -> None:
    def unit(connection: Connection) -> tuple[bool, bool, str]:
        plan_task(connection, status=Status.READY)
        first = moves.store(connection, IMAGE)
        second = moves.store(connection, replace(IMAGE, sha256="cd"))
        return first, second, results.of_tasks(connection, ["task_1"])["task_1"].sha256

    assert await database.write(unit) == (True, False, "ab")


async def test_giving_up_a_task_records_the_reason(database: Database) -> None:
    def unit(connection: Connection) -> tasks.Task | None:
        plan_task(connection, status=Status.READY)
        moves.give_up(connection, "task_1", Failure.ASSET_LOST, MoneySpent.YES, "gone", START)
        return tasks.get(connection, "task_1")

    task = await database.write(unit)

    assert task is not None
    assert (task.failure, task.money_spent, task.failure_detail) == (Failure.ASSET_LOST, MoneySpent.YES, "gone")
