"""Tasks of a time, counted by key and model."""

from datetime import datetime, timedelta
from typing import Any

from app import ids
from app.db import Connection
from app.db.engine.database import Database
from app.db.queries import usage
from app.db.queries.usage import Used
from app.db.tables import api_keys
from app.rules.task import MoneySpent, Status
from tests.rows import START, plan_task

MINUTE = timedelta(minutes=1)


def post(connection: Connection, at: datetime = START, **changes: Any) -> None:
    """A task whose id is of that instant."""
    plan_task(connection, ids.new_id("task", at).removeprefix("task_"), at, **changes)


async def test_tasks_are_counted_by_how_they_stand_and_their_costs_added_up(database: Database) -> None:
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


async def test_keys_and_models_are_told_apart_and_keys_have_their_names(database: Database) -> None:
    key = {"sha256": "0", "scopes": [], "created_at": START}

    def unit(connection: Connection) -> list[list[Used]]:
        api_keys.put(connection, id="key_1", name="shop", **key)
        for key_id, model in (("key_1", "pro"), ("key_1", "pro"), ("key_1", "max"), ("key_2", "pro")):
            post(connection, key_id=key_id, model=model)
        span = (START, START + MINUTE)
        return [usage.between(connection, *span), usage.between(connection, *span, "key_2")]

    everybody, one = await database.write(unit)

    assert [(each.key_id, each.key_name, each.model, each.posted) for each in everybody] == [
        ("key_1", "shop", "max", 1),
        ("key_1", "shop", "pro", 2),
        ("key_2", None, "pro", 1),
    ]
    assert one == everybody[2:]


async def test_a_task_counts_where_it_was_posted_from_the_first_instant_up_to_the_last(database: Database) -> None:
    tick = timedelta(microseconds=1)

    def unit(connection: Connection) -> list[int]:
        for at in (START - tick, START, START + MINUTE - tick, START + MINUTE):
            post(connection, at)
        spans = [
            (START, START + MINUTE),
            (START + MINUTE, START + 2 * MINUTE),
            (START + 2 * MINUTE, START + 3 * MINUTE),
        ]
        return [sum(each.posted for each in usage.between(connection, *span)) for span in spans]

    assert await database.write(unit) == [2, 1, 0]
