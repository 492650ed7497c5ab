"""Migrations of a PostgreSQL in use: by the previous version, and by a long transaction."""

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import count
from uuid import uuid4  # noqa: TID251 - names a throw-away database

import pytest
from sqlalchemy import Table, select, text
from sqlalchemy.exc import DBAPIError
from structlog.testing import capture_logs

from app.db import Connection
from app.db.engine.database import Database, as_postgres, open_database
from app.db.migrations import migrate
from app.db.migrations.migrate import catch_up
from app.db.migrations.revision import is_current, reached
from app.errors import Unavailable
from tests.databases import connection_to
from tests.postgres import Postgres
from tests.schema_rows import REVISIONS, clear, fill, found_tables, made_up, reach
from tests.sockets import until


@pytest.fixture
async def address(postgres: Postgres) -> AsyncGenerator[str]:
    """The URL of an empty database."""
    name = f"test_{uuid4().hex}"
    yield await postgres.create(name)
    await postgres.drop(name)


@pytest.fixture
async def live(address: str) -> AsyncGenerator[Database]:
    async with open_database(address) as database:
        yield database


APPEND_ONLY = frozenset({"audit"})
_numbers = count(10_000)  # of rows; some are never deleted


def use(connection: Connection, table: Table, number: int) -> None:
    """Write, change, read and delete a row, as a version does that knows this form of the table."""
    row = made_up(table, number)
    mine = [column == row[column.name] for column in table.primary_key.columns]
    connection.execute(table.insert(), row)
    if table.name in APPEND_ONLY:
        return
    connection.execute(table.update().where(*mine), row)
    assert connection.execute(select(*table.columns).where(*mine)).one() is not None
    connection.execute(table.delete().where(*mine))


@asynccontextmanager
async def used(address: str, tables: list[Table]) -> AsyncGenerator[None]:
    """Use these tables from another connection during the block, and check that this works before and after it."""
    done = 0

    async def work(other: Database) -> None:
        nonlocal done
        while True:
            for table in tables:
                await other.write(partial(use, table=table, number=next(_numbers)))
            done += 1

    async def rounds(more: int) -> None:
        wanted = done + more

        async def done_or_failed() -> bool:
            return working.done() or done >= wanted

        await until(done_or_failed)

    async with open_database(address) as other:
        working = asyncio.create_task(work(other))
        await rounds(1)
        yield
        await rounds(2)  # the second of them begins after the block
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working


async def test_a_version_keeps_working_during_and_after_all_migrations_since(live: Database, address: str) -> None:
    await live.write(lambda connection: reach(connection, REVISIONS[0]))
    await live.write(fill)
    async with used(address, await live.read(found_tables)):
        await catch_up(live)

    assert await live.read(is_current)


async def test_every_previous_version_keeps_working_during_and_after_the_next_migration(
    live: Database, address: str
) -> None:
    """One database goes through all migrations; at the end, each form that a table has had still works."""
    forms: dict[Table, None] = {}
    for before in REVISIONS[:-1]:
        tables = await live.write(_with_new_rows, before)
        forms |= dict.fromkeys(tables)
        async with used(address, tables):
            await _migrate_by_one(live, before)
    async with used(address, [*forms]):
        assert await live.read(is_current)


def _with_new_rows(connection: Connection, revision: str) -> list[Table]:
    """Reach this revision, and return its tables."""
    reach(connection, revision)
    tables = found_tables(connection)
    clear(connection, tables)
    fill(connection, tables=tables)
    return tables


async def _migrate_by_one(live: Database, before: str) -> None:
    """Run the migration after `before` as a start does, but not those that follow it."""
    postgres = as_postgres(live)
    assert postgres is not None
    await migrate._build_indexes(postgres, before)
    async with asyncio.timeout(120):
        while await live.read(reached) == before:
            await migrate.try_next(live, 2000, before)


LARGE = [
    ("0008", name) for name in ("ix_submissions_provider_id", "ix_tasks_model_status_id", "ix_deliveries_state_id")
]


async def waits_for_a_lock(database: Database) -> bool:
    blocked = text("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
    return bool(await database.read(lambda connection: connection.scalar(blocked)))


async def test_indexes_of_large_tables_are_built_while_the_tables_are_written(live: Database, address: str) -> None:
    """An index created in the migration itself would block all writers until the open transaction ends."""
    await live.write(lambda connection: reach(connection, "0007"))
    await live.write(fill)
    wrote, ends = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with connection_to(address) as connection:
            await connection.execute(text("UPDATE tasks SET priority = 1"))
            wrote.set()
            await ends.wait()
            await connection.commit()

    async with asyncio.TaskGroup() as group, open_database(address) as third:
        group.create_task(hold())
        await wrote.wait()
        migrating = group.create_task(catch_up(live))
        await until(partial(waits_for_a_lock, third))
        tables = await third.read(found_tables)
        async with asyncio.timeout(30):
            for table in tables:
                await third.write(partial(use, table=table, number=2000))
        waited = not migrating.done()
        ends.set()

    assert waited
    assert await live.read(is_current)


@pytest.mark.parametrize(("revision", "name"), LARGE)
async def test_an_invalid_index_is_built_again(revision: str, name: str, live: Database) -> None:
    valid = text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")

    def leave_unfinished(connection: Connection) -> None:
        reach(connection, f"{int(revision) - 1:04}")
        table = name.split("_")[1]
        connection.execute(text(f"CREATE INDEX {name} ON {table} (id)"))
        connection.execute(
            text("UPDATE pg_index SET indisvalid = false WHERE indexrelid = to_regclass(:name)"), {"name": name}
        )

    await live.write(leave_unfinished)
    await catch_up(live)
    columns = await live.read(
        lambda connection: connection.scalar(text("SELECT pg_get_indexdef(to_regclass(:name))"), {"name": name})
    )

    assert await live.read(lambda connection: connection.scalar(valid, {"name": name}))
    assert "(id)" not in str(columns)


@pytest.mark.parametrize("before", [None, "0007"], ids=["empty database", "last release"])
async def test_four_processes_that_start_at_once_migrate_once(before: str | None, live: Database, address: str) -> None:
    if before is not None:
        await live.write(lambda connection: reach(connection, before))
    async with open_database(address) as second, open_database(address) as third, open_database(address) as fourth:
        await asyncio.gather(*map(catch_up, (live, second, third, fourth)))

    assert await live.read(is_current)


async def test_a_process_that_waited_for_a_migration_does_not_go_on_with_the_one_after_it(live: Database) -> None:
    await live.write(lambda connection: reach(connection, "0016"))
    done = await migrate.try_next(live, 60_000, "0015")

    assert done
    assert await live.read(reached) == "0016"


@asynccontextmanager
async def locked(address: str) -> AsyncGenerator[asyncio.Event]:
    """Lock a table that every migration writes, until the event is set."""
    held, released = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with connection_to(address) as connection:
            await connection.execute(text("LOCK TABLE alembic_version IN SHARE ROW EXCLUSIVE MODE"))
            held.set()
            await released.wait()

    async with asyncio.TaskGroup() as group:
        group.create_task(hold())
        await held.wait()
        yield released
        released.set()


@pytest.fixture
async def behind(live: Database) -> Database:
    """A database without any migration but with the table of revisions."""
    await live.write(migrate.upgrade)
    await live.write(lambda connection: reach(connection, "base"))
    return live


async def test_a_migration_gives_up_a_locked_table_and_retries(behind: Database, address: str) -> None:
    with capture_logs() as logged:
        async with locked(address) as released:
            migrating = asyncio.create_task(migrate.run_missing(behind, [0.01] * 1000, lock_timeout_ms=20))

            async def has_given_up() -> bool:
                return bool(logged)

            await until(has_given_up)
            released.set()
            await migrating

    assert await behind.read(is_current)
    assert logged[0]["event"] == "migration_waiting"


async def test_a_table_that_stays_locked_makes_the_migration_unavailable_and_changes_nothing(
    behind: Database, address: str
) -> None:
    async with locked(address):
        with pytest.raises(Unavailable, match=r"other transactions lock its tables: process \d+ of .*idle in"):
            await migrate.run_missing(behind, [0.01], lock_timeout_ms=20)

        assert not await behind.read(is_current)


async def test_a_migration_that_loses_a_deadlock_is_retried(live: Database, address: str) -> None:
    """The service locks a table that the migration needs, and then waits for one that the migration has locked."""
    await live.write(lambda connection: reach(connection, "0007"))
    await live.write(fill)

    async def write_both_ways() -> None:
        async with connection_to(address) as connection:
            await connection.execute(text("UPDATE deliveries SET detail = 'x'"))
            wrote.set()
            await asyncio.to_thread(is_blocked.wait)
            with suppress(DBAPIError):  # one of the two transactions is rolled back
                await connection.execute(text("UPDATE tasks SET priority = 1"))
            await connection.commit()

    wrote, is_blocked = asyncio.Event(), threading.Event()
    # Without the indexes that are built before a migration, the migration locks `tasks` and then `deliveries`.
    async with asyncio.TaskGroup() as group, open_database(address) as third:
        group.create_task(write_both_ways())
        await wrote.wait()
        migrating = group.create_task(_without_indexes_ahead(live))
        await until(partial(waits_for_a_lock, third))
        is_blocked.set()
        await migrating

    assert await live.read(is_current)


async def test_a_migration_that_changes_several_tables_locks_one_at_a_time(live: Database, address: str) -> None:
    await live.write(lambda connection: reach(connection, "0032"))
    async with connection_to(address) as other:
        await other.execute(text("LOCK TABLE idempotency IN ROW EXCLUSIVE MODE"))  # as a transaction that writes it

        assert not await migrate.try_next(live, 20, "0032")
        others = await live.read(_sampled_contents)
    await migrate.run_missing(live)

    assert others == {("idempotency", "answer")}
    assert await live.read(_sampled_contents) == set()


def _sampled_contents(connection: Connection) -> set[tuple[str, str]]:
    """The contents of which PostgreSQL collects statistics, of three."""
    columns = "('tasks', 'request'), ('evidence', 'body'), ('idempotency', 'answer')"
    found = connection.execute(
        text(
            "SELECT relname, attname FROM pg_attribute JOIN pg_class ON attrelid = pg_class.oid "  # noqa: S608 - ours
            f"WHERE coalesce(attstattarget, -1) <> 0 AND (relname, attname) IN ({columns})"
        )
    )
    return {(row.relname, row.attname) for row in found}


async def _without_indexes_ahead(live: Database) -> None:
    pauses = [0.01] * 1000
    while not await live.read(is_current):
        if not await migrate.try_next(live, 60_000, await live.read(reached)):
            await asyncio.sleep(pauses.pop())


@pytest.mark.parametrize("exists", [False, True])
async def test_an_index_is_created_only_if_it_is_missing_and_then_locks_its_table(
    live: Database, address: str, *, exists: bool
) -> None:
    await live.write(lambda connection: reach(connection, "0008"))
    if exists:
        definition = "account_id, priority, id, status"
        index = text(f"CREATE INDEX ix_tasks_queued ON tasks ({definition}) WHERE status = 'queued'")
        await live.write(lambda connection: connection.execute(index))
    async with connection_to(address) as connection:
        await connection.execute(text("LOCK TABLE tasks IN ROW EXCLUSIVE MODE"))
        done = await migrate.try_next(live, 20, await live.read(reached))

    assert done is exists
