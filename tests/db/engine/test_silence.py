"""A connection to PostgreSQL that falls silent, as behind a NAT that has forgotten it, blocks nothing for long."""

import asyncio
import socket
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from sqlalchemy import Connection
from structlog.testing import capture_logs

from app.db.engine.bounded_connection import BoundedConnection
from app.db.engine.connector import Connector
from app.db.engine.database import Database, as_postgres, open_database
from app.db.engine.listen import Listening
from app.db.engine.postgres_errors import AWAY, NO_CONNECTION, TOO_SLOW
from app.db.engine.timeouts import Timeouts
from app.errors import DatabaseUnavailable
from tests.postgres_proxy import Proxy, proxy_to
from tests.sockets import until

TIMEOUTS = Timeouts(statement_s=1, connect_s=2)
SESSIONS = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'
"""
HANGS = 60  # seconds after which a test fails: a hundred times as long as anything here takes


@pytest.fixture
async def proxy(postgres_url: str) -> AsyncGenerator[Proxy]:
    async with proxy_to(postgres_url) as running:
        yield running


@pytest.fixture
async def through(proxy: Proxy) -> AsyncGenerator[Database]:
    """The database through the proxy, with a connection in its pool."""
    async with open_database(proxy.url, timeouts=TIMEOUTS) as opened, asyncio.timeout(HANGS):
        await opened.write(lambda connection: connection.exec_driver_sql("CREATE TABLE noted (number int)"))
        yield opened
        proxy.speak()
        await opened.write(lambda connection: connection.exec_driver_sql("DROP TABLE noted"))


def note(connection: Connection) -> None:
    connection.exec_driver_sql("INSERT INTO noted VALUES (1)")


def count(connection: Connection) -> int:
    return int(connection.exec_driver_sql("SELECT count(*) FROM noted").scalar_one())


async def test_a_unit_on_a_silent_pooled_connection_runs_on_a_new_one(through: Database, proxy: Proxy) -> None:
    proxy.silence()
    await through.write(note)
    proxy.silence()

    assert await through.read(count) == 1


@pytest.mark.parametrize("kind", ["read", "write"])
async def test_a_unit_whose_connection_falls_silent_is_run_again(through: Database, proxy: Proxy, kind: str) -> None:
    runs = 0

    def unit(connection: Connection) -> int:
        nonlocal runs
        runs += 1
        if kind == "write":
            note(connection)
        if runs == 1:
            proxy.silence()
        return count(connection)

    access = through.read if kind == "read" else through.write

    assert (await access(unit), runs) == (0 if kind == "read" else 1, 2)


async def test_a_unit_whose_commit_gets_no_answer_is_not_run_again(through: Database, proxy: Proxy) -> None:
    runs = 0

    def unit(connection: Connection) -> None:
        nonlocal runs
        runs += 1
        note(connection)
        proxy.silence()

    with pytest.raises(DatabaseUnavailable, match=AWAY):
        await through.write(unit)

    assert runs == 1


async def test_a_read_whose_end_gets_no_answer_is_run_again(through: Database, proxy: Proxy) -> None:
    runs = 0

    def unit(connection: Connection) -> int:
        nonlocal runs
        runs += 1
        found = count(connection)
        if runs == 1:
            proxy.silence()
        return found

    assert (await through.read(unit), runs) == (0, 2)


async def test_if_new_connections_are_silent_too_the_database_is_unavailable(through: Database, proxy: Proxy) -> None:
    proxy.silence(new_connections=True)
    with pytest.raises(DatabaseUnavailable, match=AWAY):
        await through.read(count)
    with pytest.raises(DatabaseUnavailable, match=AWAY):
        await through.write(note)
    proxy.speak()

    assert await through.read(count) == 0


async def test_a_batch_on_a_silent_connection_is_written_on_a_new_one(through: Database, proxy: Proxy) -> None:
    def store(connection: Connection, items: Any) -> list[None]:
        for _ in items:
            note(connection)
        return [None for _ in items]

    batcher = through.batcher(store)
    await batcher.add(1)
    proxy.silence()
    await batcher.add(2)

    assert await through.read(count) == 2


async def test_many_units_on_silent_connections_all_end(through: Database, proxy: Proxy) -> None:
    patient = Timeouts(statement_s=1, connect_s=10)  # twenty units have five seconds for the places of the first ten
    async with open_database(proxy.url, timeouts=patient) as database:
        await asyncio.gather(*(database.write(note) for _ in range(30)))
        proxy.silence()
        await asyncio.gather(*(database.write(note) for _ in range(30)))

    assert await through.read(count) == 60


async def test_a_caller_that_gives_up_on_a_silent_connection_does_not_wait_for_it(postgres_url: str) -> None:
    slow = Timeouts(statement_s=HANGS, connect_s=HANGS)
    async with (
        proxy_to(postgres_url) as proxy,
        open_database(proxy.url, timeouts=slow) as database,
        asyncio.timeout(HANGS / 2),
    ):

        def unit(connection: Connection) -> None:
            proxy.silence()
            connection.exec_driver_sql("SELECT 1")

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await database.read(unit)

        assert await database.read(lambda connection: connection.exec_driver_sql("SELECT 1").scalar_one()) == 1


@pytest.mark.parametrize("kind", ["read", "write", "batch"])
async def test_a_cancelled_caller_gets_no_other_error_at_any_moment(through: Database, kind: str) -> None:
    def store(connection: Connection, items: Any) -> list[int]:
        return [count(connection) for _ in items]

    batcher = through.batcher(store)

    async def repeat() -> None:
        while True:
            if kind == "batch":
                await batcher.add(1)
            else:
                await (through.read(count) if kind == "read" else through.write(count))

    outcomes: list[object] = []
    for number in range(60):
        running = asyncio.create_task(repeat())
        await asyncio.sleep(0.01 + number * 0.0003)
        running.cancel()
        outcomes += await asyncio.gather(running, return_exceptions=True)

    assert {type(outcome) for outcome in outcomes} == {asyncio.CancelledError}


async def test_closing_does_not_wait_for_silent_connections(postgres_url: str) -> None:
    slow = Timeouts(statement_s=HANGS, connect_s=HANGS)

    def store(connection: Connection, items: Any) -> list[int]:
        return [int(connection.exec_driver_sql("SELECT 1").scalar_one()) for _ in items]

    async with asyncio.timeout(HANGS / 2), proxy_to(postgres_url) as proxy:
        async with open_database(proxy.url, timeouts=slow) as database:
            connected = asyncio.Event()
            database.on_events(connected.set)
            await connected.wait()
            batcher = database.batcher(store)
            await batcher.add(1)
            proxy.silence(new_connections=True)
            unwritten = batcher.add(2)
        with pytest.raises(DatabaseUnavailable):
            await unwritten


async def test_the_locks_of_a_silent_connection_are_released(through: Database, proxy: Proxy) -> None:
    await through.write(note)
    first = True

    def unit(connection: Connection) -> None:
        nonlocal first
        connection.exec_driver_sql("LOCK TABLE noted")
        if first:
            first = False
            proxy.silence()
            connection.exec_driver_sql("SELECT 1")

    async def succeeds() -> bool:
        try:
            await through.write(unit)
        except DatabaseUnavailable:
            return False
        return True

    await until(succeeds)


async def test_a_connection_that_falls_silent_within_a_statement_leaves_no_session(
    through: Database, proxy: Proxy
) -> None:
    runs = 0

    def unit(connection: Connection) -> int:
        nonlocal runs
        runs += 1
        connection.exec_driver_sql("LOCK TABLE noted")
        # The driver sends a new statement in two parts. Between them, no timeout of the server applies.
        proxy.silent_after = b"'a new statement'" if runs == 1 else None
        connection.exec_driver_sql("SELECT 'a new statement'")
        return int(connection.exec_driver_sql(SESSIONS).scalar_one())

    assert (await through.write(unit), runs) == (1, 2)


async def test_a_slow_statement_is_not_told_as_an_unreachable_database(through: Database) -> None:
    with pytest.raises(DatabaseUnavailable, match=TOO_SLOW):
        await through.read(lambda connection: connection.exec_driver_sql("SELECT pg_sleep(30)"))

    assert await through.read(count) == 0


async def test_a_full_pool_is_not_told_as_an_unreachable_database(through: Database) -> None:
    def unit(connection: Connection) -> None:
        connection.exec_driver_sql("SELECT pg_sleep(0.6)")

    found = await asyncio.gather(*(through.read(unit) for _ in range(60)), return_exceptions=True)

    assert {error.detail for error in found if isinstance(error, DatabaseUnavailable)} == {NO_CONNECTION}


async def test_a_migration_has_more_time_for_a_statement(through: Database) -> None:
    postgres = as_postgres(through)
    assert postgres is not None

    await postgres.write_directly(lambda connection: connection.exec_driver_sql("SELECT pg_sleep(2)"))


async def test_a_silent_listening_connection_is_replaced(proxy: Proxy) -> None:
    heard = 0

    def hear() -> None:
        nonlocal heard
        heard += 1

    async def more_than(times: int) -> None:
        async def is_more() -> bool:
            return heard > times

        await until(is_more, HANGS)

    listening = Listening(proxy.url, timeouts=TIMEOUTS, check_every_s=0.1)
    try:
        listening.add("one", hear)
        await more_than(0)
        proxy.silence()
        await more_than(1)  # a new subscription may have missed something, so it calls its listeners
    finally:
        await listening.close()


async def test_a_connection_that_is_given_up_is_logged(through: Database, proxy: Proxy) -> None:
    with capture_logs() as lines:
        proxy.silence()
        await through.read(count)

    assert [line["event"] for line in lines] == ["database_connection_closed"]


async def test_the_kernel_watches_a_tcp_connection(postgres_url: str) -> None:
    def option(connection: BoundedConnection, level: int, name: str) -> int:
        return int(connection._transport.get_extra_info("socket").getsockopt(level, getattr(socket, name)))

    async with proxy_to(postgres_url, tcp=True) as proxy:
        connection = await Connector(Timeouts(statement_s=7)).connect(proxy.url)
        found = {name: option(connection, socket.IPPROTO_TCP, name) for name in ("TCP_KEEPIDLE", "TCP_USER_TIMEOUT")}
        keeps_alive = option(connection, socket.SOL_SOCKET, "SO_KEEPALIVE")
        await connection.close()

    assert (keeps_alive, found) == (1, {"TCP_KEEPIDLE": 10, "TCP_USER_TIMEOUT": 12_000})
