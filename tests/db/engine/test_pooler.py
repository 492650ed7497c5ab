"""PostgreSQL behind PgBouncer in transaction mode: each transaction may run in another session of the server."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from functools import partial
from uuid import uuid4  # noqa: TID251 - names a throw-away database

import asyncpg  # type: ignore[import-untyped]
import pytest
from sqlalchemy import make_url, text
from structlog.testing import capture_logs

from app.db import Connection
from app.db.engine.connector import Connector
from app.db.engine.database import Database, as_postgres, open_database
from app.db.engine.listen import Listening
from app.db.migrations.migrate import catch_up
from app.db.migrations.revision import is_current
from app.errors import ConfigurationError, Unavailable
from tests.conftest import skip_or_fail
from tests.pgbouncer import POOL_SIZE, pgbouncer
from tests.postgres import Postgres
from tests.rows import newest_tasks, plan_task
from tests.schema_rows import fill, reach
from tests.sockets import until

MANY = 100


@pytest.fixture
def pooled_url(pooled: Postgres, postgres_url: str) -> str:
    """The address of a migrated database through PgBouncer."""
    return pooled.address(str(make_url(postgres_url).database))


@pytest.fixture
async def behind_pooler(pooled_url: str) -> AsyncGenerator[Database]:
    async with open_database(pooled_url) as opened:
        yield opened


def is_pooled(database: Database) -> bool:
    postgres = as_postgres(database)
    return postgres is not None and postgres.is_pooled


def show(connection: Connection, setting: str) -> str:
    return str(connection.scalar(text(f"SHOW {setting}")))


def write_rows(connection: Connection, names: Sequence[str]) -> list[str]:
    return [plan_task(connection, name) for name in names]


async def test_a_pooler_is_recognised(postgres_url: str, pooled_url: str) -> None:
    recognised = []
    for url in (postgres_url, pooled_url):
        connector = Connector()
        connection = await connector.connect(url)
        await connection.close()
        recognised.append(connector.is_pooled)

    assert recognised == [False, True]


async def test_concurrent_units_and_batches_succeed_on_few_sessions(behind_pooler: Database) -> None:
    names = [f"{number:03}" for number in range(MANY)]
    await asyncio.gather(*(behind_pooler.write(partial(plan_task, name=name)) for name in names))
    batcher = behind_pooler.batcher(write_rows)
    batched = [batcher.add(f"b{name}") for name in names]
    reads = [behind_pooler.read(lambda c: len(newest_tasks(c, 1000))) for _ in names]
    await asyncio.gather(*batched, *reads)

    found = await behind_pooler.read(lambda c: newest_tasks(c, 1000))
    assert {task.id.removeprefix("task_") for task in found} == {*names, *(f"b{name}" for name in names)}
    assert is_pooled(behind_pooler)


async def test_nothing_of_a_unit_stays_in_a_session_for_other_clients(
    behind_pooler: Database, pooled_url: str, postgres_url: str
) -> None:
    direct = await asyncpg.connect(postgres_url)
    default = await direct.fetchval("SHOW jit")
    await direct.close()
    behind_pooler.on_events(lambda: None)
    await asyncio.gather(*(behind_pooler.write(partial(plan_task, name=str(n))) for n in range(MANY)))
    await behind_pooler.batcher(write_rows).add("batched")

    async with AsyncExitStack() as stack:
        seen = set()
        for _ in range(POOL_SIZE):  # at once, so that each uses a session of its own
            other = await asyncpg.connect(pooled_url, statement_cache_size=0)
            stack.push_async_callback(other.close)
            await stack.enter_async_context(other.transaction())
            seen.add(await other.fetchval("SELECT pg_backend_pid()"))
            assert await other.fetchval("SELECT count(*) FROM pg_prepared_statements") == 0
            assert await other.fetchval("SELECT count(*) FROM pg_listening_channels()") == 0
            assert await other.fetchval("SHOW jit") == default
            assert await other.fetchval("SHOW plan_cache_mode") == "auto"
            assert await other.fetchval("SHOW idle_in_transaction_session_timeout") == "0"
    assert len(seen) == POOL_SIZE


async def test_the_settings_hold_in_each_transaction(behind_pooler: Database) -> None:
    def settings(connection: Connection) -> tuple[str, ...]:
        names = ("statement_timeout", "idle_in_transaction_session_timeout", "jit")
        return tuple(show(connection, name) for name in names)

    def each(connection: Connection, items: Sequence[int]) -> list[tuple[str, ...]]:
        return [settings(connection) for _ in items]

    batched = await behind_pooler.batcher(each).add(1)
    found = [batched, await behind_pooler.write(settings), await behind_pooler.read(settings)]

    assert found == [("30s", "15s", "off")] * 3


async def test_the_sessions_may_end_while_the_clients_stay_connected(
    behind_pooler: Database, postgres_url: str
) -> None:
    batcher = behind_pooler.batcher(write_rows)
    await batcher.add("a")
    other = await asyncpg.connect(postgres_url)
    await other.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
        "AND pid <> pg_backend_pid()"
    )
    await other.close()

    async def is_written() -> bool:
        try:
            await batcher.add("b")
            await behind_pooler.write(lambda c: plan_task(c, "c"))
        except Unavailable:
            return False
        return True

    await until(is_written)


async def test_processes_that_start_at_once_behind_a_pooler_migrate_once(postgres: Postgres, pooled: Postgres) -> None:
    name = f"test_{uuid4().hex}"
    direct = await postgres.create(name)
    async with open_database(direct) as database:  # the indexes of the next versions are built concurrently
        await database.write(lambda c: reach(c, "0007"))
        await database.write(fill)
    try:
        async with AsyncExitStack() as stack:
            url = pooled.address(name)
            starting = [await stack.enter_async_context(open_database(url)) for _ in range(2)]
            await asyncio.gather(*map(catch_up, starting))

            assert await starting[0].read(is_current)
            assert (
                await starting[0].read(lambda c: c.scalar(text("SELECT count(*) FROM pg_index WHERE NOT indisvalid")))
                == 0
            )
    finally:
        await postgres.drop(name)


async def test_listeners_are_called_regularly_where_notifications_do_not_arrive(pooled_url: str) -> None:
    calls: list[bool] = []
    listening = Listening(pooled_url)
    with capture_logs() as logged:
        listening.add("one", lambda: calls.append(True), containing="nothing")

        async def is_called_again() -> bool:
            return len(calls) > 1

        await until(is_called_again)
        await listening.close()

    assert [line["event"] for line in logged] == ["polling_instead_of_listening"]


async def hears(listening: Listening, database: Database) -> bool:
    """Whether a listener is called when its channel is subscribed and for a notification, and at no other time."""
    calls: list[bool] = []

    async def is_subscribed() -> bool:
        return len(calls) == 1

    async def is_notified() -> bool:
        return len(calls) == 2

    with capture_logs() as logged:
        listening.add("one", lambda: calls.append(True))
        await until(is_subscribed)
        await database.write(lambda connection: connection.exec_driver_sql("NOTIFY one").close())
        await until(is_notified)
        await listening.close()
    return logged == []


async def test_listeners_are_called_for_notifications_at_the_direct_url(
    behind_pooler: Database, pooled_url: str, postgres_url: str
) -> None:
    assert await hears(Listening(pooled_url, postgres_url), behind_pooler)


async def test_the_direct_url_may_lead_to_a_pooler_that_keeps_sessions(postgres: Postgres, postgres_url: str) -> None:
    async with pgbouncer(postgres, pool_mode="session") as server:
        if isinstance(server, str):
            skip_or_fail("pgbouncer", server)
        assert isinstance(server, Postgres)
        url = server.address(str(make_url(postgres_url).database))
        async with open_database(url, direct_url=url) as database:
            await catch_up(database)
            assert await hears(Listening(url, url), database)


async def test_a_direct_url_to_another_database_is_refused(
    pooled: Postgres, pooled_url: str, postgres_url: str
) -> None:
    async with open_database(pooled_url, direct_url=postgres_url) as same:
        await catch_up(same)
    async with open_database(pooled_url, direct_url=pooled.dsn) as other:
        with pytest.raises(ConfigurationError, match="DIRECT_URL: leads to another database"):
            await catch_up(other)


async def test_an_unreachable_direct_url_is_named(postgres_url: str) -> None:
    async with open_database(postgres_url, direct_url="postgresql://absent@/none?host=/nowhere") as database:
        with pytest.raises(Unavailable, match="FLUXHOOK_DATABASE_DIRECT_URL: the database cannot be reached"):
            await catch_up(database)


def test_a_wrong_direct_url_is_named() -> None:
    async def opened() -> None:
        async with open_database("postgresql://db/fluxhook", direct_url="postgresql://db/fluxhook?x=y"):
            raise AssertionError("it must not open")

    with pytest.raises(ConfigurationError, match="DATABASE_DIRECT_URL: unknown parameter x"):
        asyncio.run(opened())
