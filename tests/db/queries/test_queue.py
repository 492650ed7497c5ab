import sqlite3
from collections.abc import Callable, Collection
from datetime import timedelta
from operator import attrgetter
from typing import TypeVar

import pytest

from app.db import Connection
from app.db.engine.database import Database, open_database
from app.db.queries import queue
from app.db.queries.queue import Depth
from app.rules.task import Status
from tests.rows import START, plan_task, take_slot

T = TypeVar("T")

LATER = START + timedelta(hours=1)


async def test_each_task_that_waits_for_a_slot_has_a_position(database: Database) -> None:
    def unit(connection: Connection) -> dict[str, int]:
        for name, priority in (("a", 0), ("b", 0), ("c", 5), ("d", 0)):
            plan_task(connection, name, priority=priority)
        plan_task(connection, "e", status=Status.SUBMITTED, priority=9)
        plan_task(connection, "f", account_id="other", priority=9)
        take_slot(connection, "a")
        return queue.positions(connection, [f"task_{name}" for name in "abcdef"])

    assert await database.write(unit) == {"task_f": 1, "task_c": 2, "task_b": 3, "task_d": 4}


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

    assert await database.write(unit) == {"task_b": 1, "task_d": 2, "task_y": 3}


async def test_tasks_of_other_applications_do_not_count_in_positions(database: Database) -> None:
    names = "abcdef"

    def unit(connection: Connection) -> list[dict[str, int]]:
        for name, application in (("a", "app_1"), ("b", "app_2"), ("c", "app_1"), ("d", "app_2")):
            plan_task(connection, name, application_id=application, priority=9 if name == "a" else 0)
        plan_task(connection, "e", key_id="key_1", application_id=None)  # of a version without applications
        plan_task(connection, "f", application_id="app_2")
        take_slot(connection, "b")
        alone = [queue.positions(connection, [f"task_{name}"]) for name in names]
        return [queue.positions(connection, [f"task_{name}" for name in names]), *alone]

    together, *alone = await database.write(unit)
    assert together == {"task_a": 1, "task_c": 2, "task_d": 1, "task_e": 3, "task_f": 2}
    assert {task_id: position for found in alone for task_id, position in found.items()} == together


async def test_positions_together_equal_those_of_each_task_alone(database: Database) -> None:
    numbers = range(60)

    def unit(connection: Connection) -> tuple[dict[str, int], dict[str, int]]:
        for number in numbers:
            status = Status.SUBMITTED if number % 11 == 3 else Status.QUEUED
            application = f"app_{number % 2}"
            plan_task(connection, f"{number:02}", application_id=application, priority=number % 5 % 3, status=status)
        for slot, number in enumerate(numbers[::7], 1):
            take_slot(connection, f"{number:02}", slot)
        task_ids = [f"task_{number:02}" for number in numbers if number % 4]
        alone = [queue.positions(connection, [task_id]) for task_id in task_ids]
        return queue.positions(connection, task_ids), {key: found[key] for found in alone for key in found}

    together, alone = await database.write(unit)
    assert together == alone
    assert len(together) > 30


async def test_positions_of_a_page_take_few_steps_for_each_task_that_waits(sqlite_url: str) -> None:
    def fill(connection: Connection) -> None:
        for number in range(1000):
            plan_task(connection, f"{number:04}")
        take_slot(connection, "0000")

    def steps(connection: Connection) -> int:
        page = [f"task_{number:04}" for number in range(950, 1000)]
        counted, found = steps_of(connection, lambda: queue.positions(connection, page))
        assert list(found.values()) == list(range(950, 1000))
        return counted

    async with open_database(sqlite_url) as database:
        await database.write(fill)
        assert await database.read(steps) < 10 * 1000


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
        found = [
            queue.waiting_since(connection, ["account"], START - timedelta(seconds=1)),
            queue.waiting_since(connection, ["account"], START),
            queue.waiting_since(connection, ["account"], START, among=["task_other_old"]),
        ]
        return [[task.id for task in waiting] for waiting in found]

    assert await database.write(unit) == [[], ["task_account_old"], []]


async def test_each_queue_has_its_length_and_its_oldest_task_without_those_that_have_a_slot(database: Database) -> None:
    def unit(connection: Connection) -> queue.Queued:
        for number, name in enumerate("abcd"):
            plan_task(connection, name, START + timedelta(seconds=number))
        plan_task(connection, "max", LATER, model="flux-kontext-max")
        plan_task(connection, "other", account_id="other")
        plan_task(connection, "sent", status=Status.SUBMITTED)
        for number, name in enumerate(("a", "c", "other", "sent"), 1):
            take_slot(connection, name, number)
        return queue.queued(connection)

    found = await database.write(unit)
    assert found.count == 6
    assert sorted(found.depths, key=attrgetter("model")) == [
        Depth("account", "flux-kontext-max", 1, LATER),
        Depth("account", "flux-kontext-pro", 2, START + timedelta(seconds=1)),
    ]


async def test_an_empty_queue_has_no_depths(database: Database) -> None:
    assert await database.read(queue.queued) == queue.Queued(0, [])


async def test_each_queued_task_is_one_entry_of_an_index_when_the_queues_are_counted(sqlite_url: str) -> None:
    def fill(connection: Connection) -> None:
        for number in range(1000):
            plan_task(connection, f"{number:04}", account_id=f"account_{number % 2}", model=f"model_{number % 3}")

    async with open_database(sqlite_url) as database:
        await database.write(fill)
        steps, found = await database.read(lambda connection: steps_of(connection, lambda: queue.queued(connection)))

    assert (found.count, len(found.depths)) == (1000, 6)
    assert steps < 10 * 1000


@pytest.mark.parametrize(
    "find",
    [
        pytest.param(queue.admitted, id="admitted tasks"),
        pytest.param(lambda connection: queue.past_deadline(connection, LATER), id="deadlines"),
    ],
)
async def test_what_a_sweep_looks_for_reads_no_more_of_a_longer_queue(
    sqlite_url: str, find: Callable[[Connection], Collection[str]]
) -> None:
    def steps(connection: Connection) -> int:
        counted, found = steps_of(connection, lambda: list(find(connection)))
        assert found == ["task_0"]
        return counted

    def fill(connection: Connection, numbers: range) -> None:
        for number in numbers:
            plan_task(connection, f"{number}", deadline_at=None if number else LATER)

    async with open_database(sqlite_url) as database:
        await database.write(fill, range(10))
        await database.write(take_slot, "0")
        short = await database.read(steps)
        await database.write(fill, range(10, 1000))
        long = await database.read(steps)

    assert long <= short + 10


def steps_of(connection: Connection, work: Callable[[], T]) -> tuple[int, T]:
    """Return the number of steps that SQLite takes for this work, and its result."""
    counted: list[None] = []
    driver = connection.connection.dbapi_connection
    assert isinstance(driver, sqlite3.Connection)
    driver.set_progress_handler(lambda: counted.append(None), 1)
    try:
        found = work()
    finally:
        driver.set_progress_handler(None, 0)
    return len(counted), found
