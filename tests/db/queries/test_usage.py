"""The tasks of a time span, counted by key and model."""

from datetime import datetime, timedelta
from typing import Any

from app import ids
from app.db import Connection
from app.db.engine.database import Database
from app.db.queries import usage
from app.db.tables import api_keys
from app.db.tables.api_keys import NewApiKey
from app.rules.task import MoneySpent, Status
from app.rules.usage import Used
from tests.rows import START, plan_task

MINUTE = timedelta(minutes=1)


def post(connection: Connection, at: datetime = START, **changes: Any) -> None:
    """Insert a task created at `at`, with an id of that time."""
    plan_task(connection, ids.new_id("task", at).removeprefix("task_"), at, **changes)


async def test_tasks_are_counted_by_state_and_their_costs_are_added(database: Database) -> None:
    def unit(connection: Connection) -> list[Used]:
        post(connection, status=Status.STORED, cost=4.0)
        post(connection, status=Status.STORED, cost=2.5)
        post(connection, status=Status.STORED)
        post(connection, status=Status.FAILED, cost=4.0, money_spent=MoneySpent.MAYBE)
        post(connection, status=Status.FAILED, money_spent=MoneySpent.MAYBE)
        post(connection, status=Status.FAILED, money_spent=MoneySpent.NO)
        post(connection, status=Status.CANCELLED)
        for status in (Status.QUEUED, Status.SUBMITTING, Status.SUBMITTED, Status.READY):
            post(connection, status=status, cost=4.0 if status is Status.READY else None)
        return usage.between(connection, START, START + MINUTE)

    (found,) = await database.write(unit)

    assert (found.posted, found.stored, found.failed, found.cancelled, found.open) == (11, 3, 3, 1, 4)
    assert found.cost == 14.5
    assert found.cost_unknown == 5  # one stored, one failed, and three whose cost is still to come


async def test_usage_is_listed_by_key_and_model_with_the_names_of_keys(database: Database) -> None:
    def unit(connection: Connection) -> list[list[Used]]:
        api_keys.put(connection, NewApiKey("key_1", "shop", "0", [], START))
        for key_id, model in (("key_1", "pro"), ("key_1", "pro"), ("key_1", "max"), ("key_2", "pro")):
            post(connection, key_id=key_id, model=model)
        span = (START, START + MINUTE)
        return [usage.between(connection, *span), usage.between(connection, *span, "app_2")]

    all_keys, one_key = await database.write(unit)

    assert [(used.key_id, used.key_name, used.model, used.posted) for used in all_keys] == [
        ("key_1", "shop", "max", 1),
        ("key_1", "shop", "pro", 2),
        ("key_2", None, "pro", 1),
    ]
    assert one_key == all_keys[2:]


async def test_a_time_span_includes_its_beginning_and_excludes_its_end(database: Database) -> None:
    tick = timedelta(microseconds=1)

    def unit(connection: Connection) -> list[int]:
        for at in (START - tick, START, START + MINUTE - tick, START + MINUTE):
            post(connection, at)
        spans = [
            (START, START + MINUTE),
            (START + MINUTE, START + 2 * MINUTE),
            (START + 2 * MINUTE, START + 3 * MINUTE),
        ]
        return [sum(used.posted for used in usage.between(connection, *span)) for span in spans]

    assert await database.write(unit) == [2, 1, 0]
