"""The numbered steps and the tables say the same, on both databases."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4  # noqa: TID251 - names a throw-away database

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text
from structlog.testing import capture_logs

from app.db import Connection
from app.db.engine.database import Database, open_database
from app.db.migrations import all_tables, migrate
from app.db.migrations.migrate import catch_up
from app.db.migrations.revision import is_current, newest
from app.errors import ConfigurationError
from app.jobs import sqlite
from tests.rows import START, claim, jobs_left
from tests.schema_rows import REVISIONS, STEPS, fill, found_tables, reach, rows_of, shape


@pytest.fixture(params=["sqlite", "postgres"])
async def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[str]:
    """The address of a database with nothing in it."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
        return
    server = request.getfixturevalue("postgres")
    name = f"test_{uuid4().hex}"
    yield await server.create(name)
    await server.drop(name)


@pytest.fixture
async def empty(empty_url: str) -> AsyncGenerator[Database]:
    """The same, opened."""
    async with open_database(empty_url) as database:
        yield database


def differences(connection: Connection) -> list[Any]:
    """What Alembic would change to turn the migrated tables into the declared ones."""
    opts = {"compare_type": True, "include_name": lambda name, *_: not (name or "").startswith("pgqueuer")}
    context = MigrationContext.configure(connection, opts=opts)
    found: list[Any] = compare_metadata(context, all_tables.metadata)
    return found


def tables(connection: Connection) -> set[str]:
    """Those that are declared here; PgQueuer declares its own."""
    found = set(inspect(connection).get_table_names()) - {"alembic_version", "sqlite_sequence"}
    return {name for name in found if not name.startswith("pgqueuer")}


def downgrade(connection: Connection) -> None:
    reach(connection, "base")


def claim_revision(connection: Connection, revision: str) -> None:
    """Have the database say that it was left by another version."""
    connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})


async def test_the_steps_lead_from_nothing_to_the_tables_as_they_are_declared(empty: Database) -> None:
    await empty.write(migrate.upgrade)

    assert await empty.read(differences) == []
    assert await empty.read(tables) == set(all_tables.metadata.tables)
    assert sqlite.jobs.name in all_tables.metadata.tables


async def test_the_steps_lead_back_to_nothing_and_up_again(empty: Database) -> None:
    await empty.write(migrate.upgrade)
    await empty.write(downgrade)
    down = await empty.read(tables)
    await empty.write(migrate.upgrade)

    assert down == set()
    assert await empty.read(differences) == []


async def test_each_step_leads_back_and_up_again_and_what_was_there_before_it_survives(empty: Database) -> None:
    """Also with rows in the tables, and rows that were written between."""

    def there_and_back(connection: Connection, before: str, after: str) -> None:
        reach(connection, before)
        known = found_tables(connection)
        reach(connection, after)
        fill(connection)
        rows, form = rows_of(connection, known), shape(connection)
        reach(connection, before)
        assert rows_of(connection, known) == rows
        reach(connection, after)
        assert rows_of(connection, known) == rows
        assert shape(connection) == form
        for table in found_tables(connection):
            connection.execute(table.delete())

    for before, after in zip(["base", *REVISIONS], REVISIONS, strict=False):
        await empty.write(partial(there_and_back, before=before, after=after))

    assert await empty.read(differences) == []


async def test_ten_that_start_at_once_migrate_once(empty_url: str) -> None:
    async with AsyncExitStack() as stack:
        starting = [await stack.enter_async_context(open_database(empty_url)) for _ in range(10)]
        await starting[0].read(is_current)  # SQLite waits for no other connection when it turns a new file to WAL
        await asyncio.gather(*map(catch_up, starting))

        assert [await each.read(differences) for each in starting[:2]] == [[], []]


async def test_a_migrated_database_has_nothing_left_to_do(empty: Database) -> None:
    await empty.write(migrate.upgrade)
    await empty.write(migrate.upgrade)

    assert await empty.read(differences) == []


def test_the_newest_step_is_the_one_that_alembic_ends_with() -> None:
    assert newest() == STEPS.get_current_head()


async def test_a_database_is_current_only_when_no_step_is_missing(empty: Database) -> None:
    before = await empty.read(is_current)
    await empty.write(migrate.upgrade)
    after = await empty.read(is_current)
    await empty.write(downgrade)

    assert (before, after, await empty.read(is_current)) == (False, True, False)


async def test_a_database_that_a_newer_version_left_is_taken_as_it_is(empty: Database) -> None:
    await empty.write(migrate.upgrade)
    await empty.write(lambda connection: claim_revision(connection, "9999"))
    with capture_logs() as told:
        await catch_up(empty)

    assert await empty.read(is_current)
    assert await empty.read(differences) == []
    assert [(line["log_level"], line["event"]) for line in told] == [("warning", "schema_is_newer")]


async def test_a_database_of_no_version_at_all_is_refused(empty: Database) -> None:
    await empty.write(migrate.upgrade)
    await empty.write(lambda connection: claim_revision(connection, "0000"))

    with pytest.raises(ConfigurationError, match="0000"):
        await catch_up(empty)


async def test_a_step_that_fails_leaves_the_database_as_it_was(empty: Database) -> None:
    def fails(connection: Connection) -> None:
        migrate.upgrade(connection)
        raise KeyError

    with pytest.raises(KeyError):
        await empty.write(fails)

    assert await empty.read(tables) == set()


async def test_jobs_that_the_version_before_left_on_postgresql_are_taken_over(empty: Database) -> None:
    if empty.dialect.name != "postgresql":
        pytest.skip("SQLite keeps them where they are")

    def before(connection: Connection) -> None:
        reach(connection, "0001")
        job = {"step": "collect", "task_id": "task_1", "run_at": START, "failures": 2}
        connection.execute(sqlite.jobs.insert(), [{**job, "state": state} for state in ("waiting", "running", "held")])

    await empty.write(before)
    await empty.write(migrate.upgrade)
    left = await empty.read(jobs_left)

    assert {(job.step, job.task_id) for job in left} == {("collect", "task_1")}
    assert sorted(job.state for job in left) == ["held", "waiting"]
    assert await empty.write(lambda connection: len(claim(connection, START))) == 1
