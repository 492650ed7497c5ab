"""The numbered steps and the tables say the same, on both databases."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any
from uuid import uuid4  # noqa: TID251 - names a throw-away database

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect

from app.jobs import embedded
from app.record import Connection, migrate, schema
from app.record.database import Database, open_database
from tests.rows import START, claim, jobs_left


@pytest.fixture(params=["sqlite", "postgres"])
async def empty(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Database]:
    """A database with nothing in it."""
    if request.param == "sqlite":
        async with open_database(f"sqlite:///{tmp_path / 'empty.db'}") as database:
            yield database
        return
    server = request.getfixturevalue("postgres")
    name = f"test_{uuid4().hex}"
    async with open_database(await server.create(name)) as database:
        yield database
    await server.drop(name)


def differences(connection: Connection) -> list[Any]:
    """What Alembic would change to turn the migrated tables into the declared ones."""
    opts = {"compare_type": True, "include_name": lambda name, *_: not (name or "").startswith("pgqueuer")}
    context = MigrationContext.configure(connection, opts=opts)
    found: list[Any] = compare_metadata(context, schema.metadata)
    return found


def tables(connection: Connection) -> set[str]:
    """Those that are declared here; PgQueuer declares its own."""
    found = set(inspect(connection).get_table_names()) - {"alembic_version", "sqlite_sequence"}
    return {name for name in found if not name.startswith("pgqueuer")}


def downgrade(connection: Connection) -> None:
    config = migrate._config()
    config.attributes["connection"] = connection
    command.downgrade(config, "base")


async def test_the_steps_lead_from_nothing_to_the_tables_as_they_are_declared(empty: Database) -> None:
    await empty.write(migrate.upgrade)

    assert await empty.read(differences) == []
    assert await empty.read(tables) == set(schema.metadata.tables)
    assert embedded.jobs.name in schema.metadata.tables


async def test_the_steps_lead_back_to_nothing_and_up_again(empty: Database) -> None:
    await empty.write(migrate.upgrade)
    await empty.write(downgrade)
    down = await empty.read(tables)
    await empty.write(migrate.upgrade)

    assert down == set()
    assert await empty.read(differences) == []


async def test_a_migrated_database_has_nothing_left_to_do(empty: Database) -> None:
    await empty.write(migrate.upgrade)
    await empty.write(migrate.upgrade)

    assert await empty.read(differences) == []


async def test_a_database_is_current_only_when_no_step_is_missing(empty: Database) -> None:
    before = await empty.read(migrate.is_current)
    await empty.write(migrate.upgrade)
    after = await empty.read(migrate.is_current)
    await empty.write(downgrade)

    assert (before, after, await empty.read(migrate.is_current)) == (False, True, False)


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
        config = migrate._config()
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        job = {"step": "collect", "task_id": "task_1", "run_at": START, "failures": 2}
        connection.execute(
            embedded.jobs.insert(), [{**job, "state": state} for state in ("waiting", "running", "held")]
        )

    await empty.write(before)
    await empty.write(migrate.upgrade)
    left = await empty.read(jobs_left)

    assert {(job.step, job.task_id) for job in left} == {("collect", "task_1")}
    assert sorted(job.state for job in left) == ["held", "waiting"]
    assert await empty.write(lambda connection: len(claim(connection, START))) == 1
