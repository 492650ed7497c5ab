"""Upgrades of a PostgreSQL under load."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import count
from uuid import uuid4  # noqa: TID251 - names a throw-away database

import pytest
from sqlalchemy import Table

from app.db import Connection
from app.db.engine.database import Database, open_database
from app.db.migrations.migrate import catch_up
from app.db.migrations.revision import is_current
from tests.postgres import Postgres
from tests.schema_rows import fill, found_tables, made_up, reach

pytestmark = pytest.mark.proof

RELEASED = "0007"  # the schema of the last release
UPGRADES = 3
# The tables that the service writes in one transaction, in its order and, as other transactions do, against it.
ORDERS = (
    ("keys", "tasks", "submissions", "evidence", "deliveries"),
    ("deliveries", "endpoints", "submissions", "tasks"),
    ("evidence", "tasks", "accounts", "events"),
)


@asynccontextmanager
async def under_load(address: str, tables: dict[str, Table]) -> AsyncGenerator[None]:
    """Run transactions that write several tables, each on a connection of its own, until the end of the block."""
    ends, numbers = asyncio.Event(), count(1000)

    async def write(order: tuple[str, ...], began: asyncio.Event) -> None:
        async with open_database(address) as database:
            while not ends.is_set():
                await database.write(_use_all, [tables[name] for name in order], next(numbers))
                began.set()

    async with asyncio.TaskGroup() as group:
        began = [asyncio.Event() for _ in ORDERS * 2]
        for order, event in zip(ORDERS * 2, began, strict=True):
            group.create_task(write(order, event))
        for event in began:
            await event.wait()
        yield
        ends.set()


def _use_all(connection: Connection, tables: list[Table], number: int) -> None:
    """Write a row of each table, in this order, and delete them."""
    rows = [(table, made_up(table, number)) for table in tables]
    for table, row in rows:
        connection.execute(table.insert(), row)
    for table, row in rows:
        connection.execute(table.delete().where(*(column == row[column.name] for column in table.primary_key)))


async def upgraded(postgres: Postgres) -> bool:
    """Migrate a database of the last release under load. Return whether it is current after one start."""
    name = f"test_{uuid4().hex}"
    address = await postgres.create(name)
    async with open_database(address) as database:
        tables = await _at_last_release(database)
        async with under_load(address, tables):
            await catch_up(database)
        current = await database.read(is_current)
    await postgres.drop(name)
    return current


async def _at_last_release(database: Database) -> dict[str, Table]:
    await database.write(reach, RELEASED)
    await database.write(fill)
    return {table.name: table for table in await database.read(found_tables)}


async def test_three_upgrades_of_a_database_under_load_succeed(postgres: Postgres) -> None:
    assert [await upgraded(postgres) for _ in range(UPGRADES)] == [True] * UPGRADES
