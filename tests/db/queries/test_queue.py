from collections import Counter
from datetime import timedelta

import pytest

from app.db import Connection
from app.db.engine.database import Database, open_database
from app.db.queries import queue
from app.rules.task import Status
from tests.rows import START, plan_task, take_slot

LATER = START + timedelta(hours=1)


async def test_each_task_that_waits_for_a_slot_has_a_position(database: Database) -> None:
    def unit(connection: Connection) -> dict[str, int]:
        for name, priority in (("a", 0), ("b", 0), ("c", 5), ("d", 0)):
            plan_task(connection, name, priority=priority)
        plan_task(connection, "e", status=Status.SUBMITTED, priority=9)
        plan_task(connection, "f", account_id="other", priority=9)
        take_slot(connection, "a")
        return queue.positions(connection, [f"task_{name}" for name in "abcdef"])

    assert await database.write(unit) == {"task_c": 1, "task_b": 2, "task_d": 3, "task_f": 1}


async def test_queued_tasks_with_a_slot_do_not_count_in_positions(database: Database) -> None:
    def unit(connection: Connection) -> dict[str, int]:
        for name in "abcd":
            plan_task(connection, name, priority=1 if name == "a" else 0)
        plan_task(connection, "x", account_id="other")
        for number, name in enumerate("ac", 1):
            take_slot(connection, name, number)
        take_slot(connection, "x", account_id="other")
        plan_task(connection, "y", account_id="other")
        return queue.positions(connection, [f"task_{name}" for name in "abcdxy"])

    assert await database.write(unit) == {"task_b": 1, "task_d": 2, "task_y": 1}


async def test_a_position_does_not_depend_on_the_other_requested_tasks(database: Database) -> None:
    def unit(connection: Connection) -> list[dict[str, int]]:
        for name in "abc":
            plan_task(connection, name)
        return [
            queue.positions(connection, ["task_c"]),
            queue.positions(connection, []),
            queue.positions(connection, ["x"]),
        ]

    assert await database.write(unit) == [{"task_c": 3}, {}, {}]


async def test_only_queued_tasks_are_next_without_those_of_full_models(database: Database) -> None:
    def unit(connection: Connection) -> list[list[str]]:
        plan_task(connection, "a")
        plan_task(connection, "b", model="flux-kontext-max")
        plan_task(connection, "c", status=Status.CANCELLED)
        plan_task(connection, "d", dispatch_after_at=LATER)
        plan_task(connection, "e")
        take_slot(connection, "e")
        cases = [(START, set()), (START, {"flux-kontext-max"}), (LATER, {"flux-kontext-pro"})]
        return [[task.id for task in queue.next_tasks(connection, "account", now, full, 9)] for now, full in cases]

    assert await database.write(unit) == [["task_a", "task_b"], ["task_a"], ["task_b"]]


async def test_no_more_tasks_are_next_than_the_limit(database: Database) -> None:
    def unit(connection: Connection) -> list[str]:
        for name in "abcd":
            plan_task(connection, name)
        return [task.id for task in queue.next_tasks(connection, "account", START, set(), 2)]

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
        return [[task.id for task in queue.next_tasks(connection, "account", START, (), limit)] for limit in (1, 7, 99)]

    turns = Counter(keys_and_priorities[name][0] for name in slot_numbers)

    def place(name: str) -> tuple[int, int, str]:
        key_id, priority = keys_and_priorities[name]
        turns[key_id] += 1
        return -priority, turns[key_id], name

    by_arrival = sorted(names, key=lambda name: (-keys_and_priorities[name][1], name))
    places = sorted(place(name) for name in by_arrival if name not in slot_numbers)
    expected = [f"task_{name}" for *_, name in places]

    assert await database.write(unit) == [expected[:1], expected[:7], expected]


async def test_finding_the_next_tasks_takes_no_more_steps_in_a_longer_queue(sqlite_url: str) -> None:
    def fill(connection: Connection, names: range) -> None:
        for number in names:
            plan_task(connection, f"{number:04}", key_id=f"key_{number % 2}", model=f"model-{number % 3}")

    def steps(connection: Connection) -> int:
        driver = connection.connection.driver_connection
        assert driver is not None
        counted: list[None] = []
        driver.set_progress_handler(lambda: counted.append(None), 1)
        try:
            assert len(queue.next_tasks(connection, "account", START, {"model-0"}, 3)) == 3
        finally:
            driver.set_progress_handler(None, 0)
        return len(counted)

    async with open_database(sqlite_url) as database:
        await database.write(lambda connection: fill(connection, range(100)))
        short = await database.write(steps)
        await database.write(lambda connection: fill(connection, range(100, 2_000)))
        long = await database.write(steps)

    assert long < 1.2 * short


async def test_an_admitted_task_is_queued_and_has_a_slot(database: Database) -> None:
    def unit(connection: Connection) -> tuple[set[str], list[bool]]:
        for name, status in (("a", Status.QUEUED), ("b", Status.SUBMITTED), ("c", Status.QUEUED)):
            plan_task(connection, name, status=status)
        take_slot(connection, "a", 1)
        take_slot(connection, "b", 2)
        return queue.admitted(connection), [queue.is_admitted(connection, f"task_{name}") for name in "abcx"]

    assert await database.write(unit) == ({"task_a"}, [True, True, False, False])


async def test_only_queued_tasks_can_be_past_their_deadline(database: Database) -> None:
    def unit(connection: Connection) -> list[list[str]]:
        plan_task(connection, "a", deadline_at=LATER)
        plan_task(connection, "b", deadline_at=LATER, status=Status.SUBMITTING)
        plan_task(connection, "c")
        return [queue.past_deadline(connection, LATER - timedelta(seconds=1)), queue.past_deadline(connection, LATER)]

    assert await database.write(unit) == [[], ["task_a"]]


async def test_tasks_that_have_waited_long_are_found_by_account(database: Database) -> None:
    def unit(connection: Connection) -> list[list[str]]:
        for name in ("account", "other"):
            plan_task(connection, f"{name}_old", START, account_id=name)
            plan_task(connection, f"{name}_new", LATER, account_id=name)
        plan_task(connection, "sent", START, status=Status.SUBMITTED)
        return [
            queue.waiting_since(connection, ["account"], START - timedelta(seconds=1)),
            queue.waiting_since(connection, ["account"], START),
            queue.waiting_since(connection, ["account"], START, among=["task_other_old"]),
        ]

    assert await database.write(unit) == [[], ["task_account_old"], []]
