import json
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from app.db import Connection
from app.db.engine.database import Database, open_database
from app.db.queries import admission
from app.db.queries.admission import Opening
from app.rules.task import Status
from tests.plans import captured_statements
from tests.rows import START, plan_task, take_slot

LATER = START + timedelta(hours=1)


def without(*models: str) -> Opening:
    """An opening for tasks of all models but these, in any region."""
    return Opening((None,), frozenset(models), excluded=True)


async def test_only_queued_tasks_are_next_without_those_of_full_models(database: Database) -> None:
    def unit(connection: Connection) -> list[list[str]]:
        plan_task(connection, "a")
        plan_task(connection, "b", model="flux-kontext-max")
        plan_task(connection, "c", status=Status.CANCELLED)
        plan_task(connection, "d", dispatch_after_at=LATER)
        plan_task(connection, "e")
        take_slot(connection, "e")
        cases = [(START, set()), (START, {"flux-kontext-max"}), (LATER, {"flux-kontext-pro"})]
        return [[task.id for task in admission.next_tasks(connection, now, [without(*full)], 9)] for now, full in cases]

    assert await database.write(unit) == [["task_a", "task_b"], ["task_a"], ["task_b"]]


async def test_tasks_of_every_model_of_every_application_are_next(database: Database) -> None:
    def unit(connection: Connection) -> list[set[str]]:
        names = [f"{application}{model}" for application in "abc" for model in "pqr"]
        for name in names:
            plan_task(connection, name, application_id=f"app_{name[0]}", model=f"model-{name[1]}")
        of_one = Opening((None,), frozenset({"model-q"}), excluded=False)
        return [
            {task.id for task in admission.next_tasks(connection, START, openings, 99)}
            for openings in ([without()], [without("model-p")], [of_one], [of_one, without("model-q")])
        ]

    everything = {f"task_{application}{model}" for application in "abc" for model in "pqr"}
    some = {task for task in everything if not task.endswith("p")}
    one = {task for task in everything if task.endswith("q")}
    assert await database.write(unit) == [everything, some, one, everything]


async def test_no_more_tasks_are_next_than_the_limit(database: Database) -> None:
    def unit(connection: Connection) -> list[str]:
        for name in "abcd":
            plan_task(connection, name)
        return [task.id for task in admission.next_tasks(connection, START, [without()], 2)]

    assert await database.write(unit) == ["task_a", "task_b"]


@pytest.mark.parametrize(("urgent", "slot_every"), [(2, 3), (3, 20), (4, 5), (7, 9), (50, 2)])
async def test_the_next_tasks_are_the_first_of_the_sorted_queue(
    database: Database, urgent: int, slot_every: int
) -> None:
    names = [f"{number:02}" for number in range(40)]
    keys_and_priorities = {name: (f"key_{int(name) % 5 % 3}", 5 if int(name) % urgent == 1 else 0) for name in names}
    slot_numbers = {name: number for number, name in enumerate(names[::slot_every], 1)}

    def unit(connection: Connection) -> list[list[str]]:
        for name, (key_id, priority) in keys_and_priorities.items():
            plan_task(connection, name, key_id=key_id, priority=priority)
        for name, number in slot_numbers.items():
            take_slot(connection, name, number, key_id=keys_and_priorities[name][0])
        return [
            [task.id for task in admission.next_tasks(connection, START, [without()], limit)] for limit in (1, 7, 99)
        ]

    turns = Counter(keys_and_priorities[name][0] for name in slot_numbers)

    def place(name: str) -> tuple[int, int, str]:
        key_id, priority = keys_and_priorities[name]
        turns[key_id] += 1
        return -priority, turns[key_id], name

    by_arrival = sorted(names, key=lambda name: (-keys_and_priorities[name][1], name))
    places = sorted(place(name) for name in by_arrival if name not in slot_numbers)
    expected = [f"task_{name}" for *_, name in places]

    assert await database.write(unit) == [expected[:1], expected[:7], expected]


@pytest.mark.parametrize("models", [3, 1], ids=["of three models", "of a full model"])
async def test_finding_the_next_tasks_takes_no_more_steps_in_a_longer_queue(sqlite_url: str, models: int) -> None:
    def fill(connection: Connection, names: range) -> None:
        for number in names:
            model = f"model-{number % (3 if number < 100 else models)}"
            plan_task(connection, f"{number:04}", key_id=f"key_{number % 2}", model=model)

    def steps(connection: Connection) -> int:
        driver = connection.connection.driver_connection
        assert driver is not None
        counted: list[None] = []
        driver.set_progress_handler(lambda: counted.append(None), 1)
        try:
            assert len(admission.next_tasks(connection, START, [without("model-0")], 3)) == 3
        finally:
            driver.set_progress_handler(None, 0)
        return len(counted)

    async with open_database(sqlite_url) as database:
        await database.write(lambda connection: fill(connection, range(100)))
        short = await database.write(steps)
        await database.write(lambda connection: fill(connection, range(100, 2_000)))
        long = await database.write(steps)

    assert long < 1.2 * short


async def test_finding_the_next_tasks_reads_no_more_of_a_longer_queue_on_postgresql(postgres_url: str) -> None:
    def fill(connection: Connection, names: range) -> None:
        for number in names:
            plan_task(connection, f"{number:04}", key_id=f"key_{number % 3}", model=f"model-{number % 2}")

    async with open_database(postgres_url) as database:

        async def blocks() -> int:
            with captured_statements(database) as sent:
                assert len(await database.write(admission.next_tasks, START, [without("model-0")], 3)) == 3
            (query,) = (found for found in sent.items() if "waiting_queues" in found[0])
            return await database.write(blocks_read, *query)

        await database.write(fill, range(60))
        short = await blocks()
        await database.write(fill, range(60, 3_000))
        long = await blocks()

    assert long < 2 * short


def blocks_read(connection: Connection, statement: str, parameters: Any) -> int:
    """Run a statement on PostgreSQL and return the number of blocks that it read."""
    plan = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", parameters).scalar_one()
    (whole,) = json.loads(plan) if isinstance(plan, str) else plan
    found: int = whole["Plan"]["Shared Hit Blocks"] + whole["Plan"]["Shared Read Blocks"]
    return found
