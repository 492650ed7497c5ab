from datetime import timedelta

from app.db import Connection
from app.db.engine.database import Database
from app.db.tables import task_updates, tasks
from app.db.tables.task_updates import FailureReason
from app.rules.task import Failure, MoneySpent, Status, sources
from tests.rows import START, plan_task


async def test_a_task_moves_exactly_if_the_table_of_moves_allows_it(database: Database) -> None:
    pairs = [(source, target) for source in Status for target in Status if target is not Status.QUEUED]

    def unit(connection: Connection) -> list[tuple[bool, Status]]:
        made = []
        for number, (source, target) in enumerate(pairs):
            task_id = plan_task(connection, f"{number}", status=source)
            moved = task_updates.move(connection, task_id, target, START)
            task = tasks.get(connection, task_id)
            assert task is not None
            made.append((moved, task.status))
        return made

    expected = [(True, target) if source in sources(target) else (False, source) for source, target in pairs]
    assert await database.write(unit) == expected


async def test_a_move_writes_its_time_and_its_values(database: Database) -> None:
    later = START + timedelta(seconds=3)

    def unit(connection: Connection) -> tasks.Task | None:
        plan_task(connection)
        reason = FailureReason(Failure.ASSET_LOST, MoneySpent.YES, "too late")
        task_updates.move(connection, "task_1", Status.FAILED, later, reason=reason)
        return tasks.get(connection, "task_1")

    task = await database.write(unit)

    assert task is not None
    assert (task.failed_at, task.failure, task.money_spent) == (later, Failure.ASSET_LOST, MoneySpent.YES)


async def test_only_one_of_two_equal_moves_succeeds(database: Database) -> None:
    await database.write(plan_task)

    async def begin() -> bool:
        return await database.write(
            lambda connection: task_updates.move(connection, "task_1", Status.SUBMITTING, START)
        )

    assert sorted([await begin(), await begin()]) == [False, True]
