"""Steps on a PostgreSQL that is in use: by the version before, and by somebody who does not let go."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from uuid import uuid4  # noqa: TID251 - names a throw-away database

import pytest
from sqlalchemy import Table, select, text
from structlog.testing import capture_logs

from app.db import Connection
from app.db.engine.database import Database, open_database
from app.db.migrations import migrate
from app.db.migrations.migrate import catch_up
from app.db.migrations.revision import is_current
from app.errors import Unavailable
from tests.databases import connection_to
from tests.postgres import Postgres
from tests.schema_rows import REVISIONS, fill, found_tables, made_up, reach
from tests.sockets import until


@pytest.fixture
async def address(postgres: Postgres) -> AsyncGenerator[str]:
    """A database with nothing in it."""
    name = f"test_{uuid4().hex}"
    yield await postgres.create(name)
    await postgres.drop(name)


@pytest.fixture
async def live(address: str) -> AsyncGenerator[Database]:
    async with open_database(address) as database:
        yield database


def use(connection: Connection, table: Table, number: int) -> None:
    """What a version does that knows the table in this form: write a row, change it, read it, delete it."""
    row = made_up(table, number)
    mine = [column == row[column.name] for column in table.primary_key.columns]
    connection.execute(table.insert(), row)
    connection.execute(table.update().where(*mine), row)
    assert connection.execute(select(*table.columns).where(*mine)).one() is not None
    connection.execute(table.delete().where(*mine))


@asynccontextmanager
async def used(address: str, tables: list[Table]) -> AsyncGenerator[None]:
    """Another process at work with these tables; it is seen to work before the block and after it."""
    done = 0

    async def work(other: Database) -> None:
        nonlocal done
        while True:
            for table in tables:
                await other.write(partial(use, table=table, number=1000 + done))
            done += 1

    async def rounds(more: int) -> None:
        wanted = done + more

        async def over() -> bool:
            return working.done() or done >= wanted

        await until(over)

    async with open_database(address) as other:
        working = asyncio.create_task(work(other))
        await rounds(1)
        yield
        await rounds(2)  # one of them began after the block
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working


@pytest.mark.parametrize("before", REVISIONS[:-1])
async def test_the_version_before_goes_on_working_while_the_schema_moves_on_and_after_it(
    before: str, live: Database, address: str
) -> None:
    await live.write(lambda connection: reach(connection, before))
    await live.write(fill)
    async with used(address, await live.read(found_tables)):
        await catch_up(live)

    assert await live.read(is_current)


LARGE = [
    ("0008", name) for name in ("ix_submissions_provider_id", "ix_tasks_model_status_id", "ix_deliveries_state_id")
]


async def waits_for_a_lock(database: Database) -> bool:
    blocked = text("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
    return bool(await database.read(lambda connection: connection.scalar(blocked)))


async def test_indexes_of_large_tables_are_made_while_others_hold_and_write_them(live: Database, address: str) -> None:
    """An index that is made in the step itself would have everybody wait behind whoever writes at the moment."""
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
async def test_an_index_that_was_left_unfinished_is_made_anew(revision: str, name: str, live: Database) -> None:
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


async def test_processes_that_start_at_once_make_an_index_once(live: Database, address: str) -> None:
    await live.write(lambda connection: reach(connection, "0007"))
    async with open_database(address) as other:
        await asyncio.gather(catch_up(live), catch_up(other))

    assert await live.read(is_current)


@asynccontextmanager
async def locked(address: str) -> AsyncGenerator[asyncio.Event]:
    """A long transaction on a table that every step writes to, until the event is set."""
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
    """A database that lacks every step."""
    await live.write(migrate.upgrade)
    await live.write(lambda connection: reach(connection, "base"))
    return live


async def test_a_step_lets_go_of_the_queue_for_a_locked_table_and_comes_back(behind: Database, address: str) -> None:
    with capture_logs() as told:
        async with locked(address) as released:
            migrating = asyncio.create_task(migrate.run_missing(behind, [0.01] * 1000, lock_timeout_ms=20))

            async def has_given_way() -> bool:
                return bool(told)

            await until(has_given_way)
            released.set()
            await migrating

    assert await behind.read(is_current)
    assert told[0]["event"] == "migration_waiting"


async def test_a_table_that_stays_locked_ends_the_start_with_a_reason_and_changes_nothing(
    behind: Database, address: str
) -> None:
    async with locked(address):
        with pytest.raises(Unavailable, match="long transaction"):
            await migrate.run_missing(behind, [0.01], lock_timeout_ms=20)

        assert not await behind.read(is_current)
