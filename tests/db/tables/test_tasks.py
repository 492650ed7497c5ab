import pytest

from app.db import Connection
from app.db.engine.database import Database
from app.db.queries.apply_changes import TaskChange, apply_changes
from app.db.tables import tasks
from app.rules.request import StoredImage, TaskRequest
from app.rules.task import Status
from tests.rows import START, newest_tasks, plan_task, write_now

IMAGE = StoredImage("input_image", "inputs/ab/abc.img_1.png", "abc", 3, "image/png", 640, 480)


async def test_a_task_is_read_as_it_was_written(database: Database) -> None:
    await database.write(
        lambda connection: plan_task(connection, request=TaskRequest({"prompt": "Füchse 🦊"}, (IMAGE,)))
    )
    task = await database.read(lambda connection: tasks.get(connection, "task_1"))

    assert task is not None
    assert task.status is Status.QUEUED
    assert task.request == TaskRequest({"prompt": "Füchse 🦊"}, (IMAGE,))
    assert (task.attempt_id, task.created_at, task.tries, task.cost) == ("sub_1", START, 0, None)


async def test_an_unknown_task_is_none(database: Database) -> None:
    assert await database.read(lambda connection: tasks.get(connection, "task_none")) is None


async def test_columns_without_a_new_value_do_not_change(database: Database) -> None:
    def unit(connection: Connection) -> tasks.Task | None:
        plan_task(connection)
        write_now(connection, apply_changes, {"task_1": TaskChange(sample_url="https://x/1", seed="7", cost=4.0)})
        write_now(connection, apply_changes, {"task_1": TaskChange(status=Status.READY, seed=None, cost=0.5, tries=1)})
        return tasks.get(connection, "task_1")

    task = await database.write(unit)

    assert task is not None
    assert (task.sample_url, task.seed, task.status) == ("https://x/1", 7, Status.READY)
    assert (task.cost, task.tries) == (4.5, 1)


@pytest.mark.parametrize("status", [status for status in Status if status.final])
async def test_a_final_task_keeps_its_state_but_its_cost_may_still_be_added(database: Database, status: Status) -> None:
    def unit(connection: Connection) -> tasks.Task | None:
        plan_task(connection, status=status)
        write_now(connection, apply_changes, {"task_1": TaskChange(status=Status.READY, cost=1.0)})
        write_now(connection, apply_changes, {"task_1": TaskChange(cost=4.0)})
        return tasks.get(connection, "task_1")

    task = await database.write(unit)

    assert task is not None
    assert (task.status, task.cost) == (status, 4.0)


@pytest.mark.parametrize("seed", [0, -1, 2**63, 2**80])
async def test_a_seed_of_any_size_is_stored(database: Database, seed: int) -> None:
    def unit(connection: Connection) -> tasks.Task | None:
        plan_task(connection)
        write_now(connection, apply_changes, {"task_1": TaskChange(seed=str(seed))})
        return tasks.get(connection, "task_1")

    task = await database.write(unit)

    assert task is not None
    assert task.seed == seed


async def test_tasks_are_listed_newest_first_with_filters_and_a_cursor(database: Database) -> None:
    def unit(connection: Connection) -> list[list[str]]:
        for name, status, model in (
            ("1", Status.STORED, "flux-kontext-pro"),
            ("2", Status.QUEUED, "flux-kontext-max"),
            ("3", Status.STORED, "flux-kontext-max"),
            ("4", Status.QUEUED, "flux-kontext-pro"),
        ):
            plan_task(connection, name, status=status, model=model)
        found = [
            newest_tasks(connection, 10),
            newest_tasks(connection, 2),
            newest_tasks(connection, 2, before="task_3"),
            newest_tasks(connection, 10, statuses=(Status.STORED,)),
            newest_tasks(connection, 10, model="flux-kontext-max", statuses=(Status.STORED,)),
            newest_tasks(connection, 10, statuses=(Status.STORED, Status.QUEUED, Status.STORED)),
            newest_tasks(connection, 1, statuses=(Status.FAILED, Status.QUEUED), model="flux-kontext-max"),
            newest_tasks(connection, 10, since="task_2", before="task_4"),
        ]
        return [[task.id.removeprefix("task_") for task in page] for page in found]

    more = [["4", "3", "2", "1"], ["2"], ["3", "2"]]
    assert await database.write(unit) == [["4", "3", "2", "1"], ["4", "3"], ["2", "1"], ["3", "1"], ["3"], *more]
