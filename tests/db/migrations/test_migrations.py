"""The migrations create exactly the declared tables, on both databases."""

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
from sqlalchemy import Table, inspect, text
from sqlalchemy.sql.functions import FunctionElement
from structlog.testing import capture_logs

from app.db import Connection
from app.db.engine.database import Database, open_database
from app.db.migrations import all_tables, migrate
from app.db.migrations.migrate import catch_up
from app.db.migrations.revision import is_current, newest
from app.errors import ConfigurationError
from app.jobs import sqlite
from tests.postgres import Postgres
from tests.rows import START, claim, stored_jobs
from tests.schema_rows import REVISIONS, STEPS, clear, fill, found_tables, reach, rows_of, shape


@pytest.fixture(params=["sqlite", "postgres"])
async def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[str]:
    """The URL of an empty database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
        return
    server = request.getfixturevalue("postgres")
    name = f"test_{uuid4().hex}"
    yield await server.create(name)
    await server.drop(name)


@pytest.fixture
async def empty(empty_url: str) -> AsyncGenerator[Database]:
    """The empty database, opened."""
    async with open_database(empty_url) as database:
        yield database


OF_EXPRESSIONS = {
    str(index.name)
    for table in all_tables.metadata.tables.values()
    for index in table.indexes
    if any(isinstance(expression, FunctionElement) for expression in index.expressions)
}


# On SQLite it begins with a column that it does not have on PostgreSQL.
NOT_COMPARED = OF_EXPRESSIONS | {"ix_tasks_by_queue"}


def differences(connection: Connection) -> list[Any]:
    """Return the changes with which Alembic would turn the migrated tables into the declared ones.

    Alembic cannot compare indexes of expressions, or that differ by dialect, so these are compared by their names.
    """
    opts = {
        "compare_type": True,
        "include_name": lambda name, *_: not (name or "").startswith("pgqueuer"),
        "include_object": lambda _object, name, *_: name not in NOT_COMPARED,
    }
    context = MigrationContext.configure(connection, opts=opts)
    found: list[Any] = compare_metadata(context, all_tables.metadata)
    shared = connection.dialect.name == "postgresql"
    listed = text("SELECT indexname FROM pg_indexes" if shared else "SELECT name FROM sqlite_master")
    return found + sorted(NOT_COMPARED - set(connection.execute(listed).scalars()))


def tables(connection: Connection) -> set[str]:
    """Return the names of the tables, without those of PgQueuer, which declares its own."""
    found = set(inspect(connection).get_table_names()) - {"alembic_version", "sqlite_sequence"}
    return {name for name in found if not name.startswith("pgqueuer")}


def downgrade(connection: Connection) -> None:
    reach(connection, "base")


def set_revision(connection: Connection, revision: str) -> None:
    """Store another revision, as if another version had migrated the database."""
    connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})


async def test_the_migrations_create_the_declared_tables(empty: Database) -> None:
    await empty.write(migrate.upgrade)

    assert await empty.read(differences) == []
    assert await empty.read(tables) == set(all_tables.metadata.tables)
    assert sqlite.jobs.name in all_tables.metadata.tables


async def test_the_migrations_can_be_reverted_and_run_again(empty: Database) -> None:
    await empty.write(migrate.upgrade)
    await empty.write(downgrade)
    down = await empty.read(tables)
    await empty.write(migrate.upgrade)

    assert down == set()
    assert await empty.read(differences) == []


async def test_each_migration_can_be_reverted_and_run_again_without_a_loss_of_rows(empty: Database) -> None:
    """The rows of the tables that exist before a migration survive, also those written after it."""

    def there_and_back(connection: Connection, before: str, known: list[Table], after: str) -> list[Table]:
        reach(connection, after)
        tables = found_tables(connection)
        fill(connection, tables=tables)
        rows = rows_of(connection, known)
        reach(connection, before)
        assert rows_of(connection, known) == rows
        reach(connection, after)
        assert rows_of(connection, known) == rows
        assert shape(found_tables(connection)) == shape(tables)
        clear(connection, tables)
        return tables

    known: list[Table] = []
    for before, after in zip(["base", *REVISIONS], REVISIONS, strict=False):
        known = await empty.write(partial(there_and_back, before=before, known=known, after=after))

    assert await empty.read(differences) == []


async def test_ten_processes_that_start_at_once_migrate_once(empty_url: str) -> None:
    async with AsyncExitStack() as stack:
        starting = [await stack.enter_async_context(open_database(empty_url)) for _ in range(10)]
        await starting[0].read(is_current)  # SQLite does not wait for a lock when it sets a new file to WAL mode
        await asyncio.gather(*map(catch_up, starting))

        assert [await database.read(differences) for database in starting[:2]] == [[], []]


async def test_a_second_migration_changes_nothing(empty: Database) -> None:
    await empty.write(migrate.upgrade)
    await empty.write(migrate.upgrade)

    assert await empty.read(differences) == []


def test_the_newest_revision_is_the_head_of_alembic() -> None:
    assert newest() == STEPS.get_current_head()


async def test_a_database_is_current_only_if_no_migration_is_missing(empty: Database) -> None:
    before = await empty.read(is_current)
    await empty.write(migrate.upgrade)
    after = await empty.read(is_current)
    await empty.write(downgrade)

    assert (before, after, await empty.read(is_current)) == (False, True, False)


async def test_a_database_of_a_newer_version_is_left_unchanged(empty: Database) -> None:
    await empty.write(migrate.upgrade)
    await empty.write(lambda connection: set_revision(connection, "9999"))
    with capture_logs() as logged:
        await catch_up(empty)

    assert await empty.read(is_current)
    assert await empty.read(differences) == []
    assert [(line["log_level"], line["event"]) for line in logged] == [("warning", "schema_is_newer")]


async def test_a_database_with_an_unknown_revision_is_refused(empty: Database) -> None:
    await empty.write(migrate.upgrade)
    await empty.write(lambda connection: set_revision(connection, "0000"))

    with pytest.raises(ConfigurationError, match="0000"):
        await catch_up(empty)


async def test_a_migration_that_fails_is_rolled_back(empty: Database) -> None:
    def fails(connection: Connection) -> None:
        migrate.upgrade(connection)
        raise KeyError

    with pytest.raises(KeyError):
        await empty.write(fails)

    assert await empty.read(tables) == set()


async def test_on_postgresql_the_jobs_of_the_previous_version_are_kept(empty: Database) -> None:
    if empty.dialect.name != "postgresql":
        pytest.skip("on SQLite the jobs stay in their table")

    def before(connection: Connection) -> None:
        reach(connection, "0001")
        job = {"step": "collect", "task_id": "task_1", "run_at": START, "failures": 2}
        connection.execute(sqlite.jobs.insert(), [{**job, "state": state} for state in ("waiting", "running", "held")])

    await empty.write(before)
    await empty.write(migrate.upgrade)
    left = await empty.read(stored_jobs)

    assert {(job.step, job.task_id) for job in left} == {("collect", "task_1")}
    assert sorted(job.state for job in left) == ["held", "waiting"]
    assert await empty.write(lambda connection: len(claim(connection, START))) == 1


async def test_samples_of_contents_are_deleted_and_collected_no_more_without_rewriting_a_table(
    postgres: Postgres,
) -> None:
    name = f"test_{uuid4().hex}"
    contents = (
        "SELECT attname FROM pg_stats WHERE (tablename, attname) IN "
        "(('tasks', 'request'), ('tasks', 'end_user'), ('evidence', 'body'), ('idempotency', 'answer'))"
    )
    files = "SELECT relname, relfilenode FROM pg_class WHERE relname LIKE '%tasks%' OR relname LIKE '%idempotency%'"

    def step(connection: Connection, revision: str) -> tuple[int, set[Any]]:
        reach(connection, revision)
        connection.execute(text("ANALYZE"))
        return len(connection.execute(text(contents)).all()), set(connection.execute(text(files)).all())

    def filled(connection: Connection) -> None:
        reach(connection, "0032")
        fill(connection)

    async with open_database(await postgres.create(name)) as database:
        await database.write(filled)
        before, files_before = await database.write(step, "0032")
        after, files_after = await database.write(step, "0033")
        again, _ = await database.write(step, "0032")
    await postgres.drop(name)

    assert (before, after, again) == (4, 0, 4)
    assert files_before == files_after != set()
