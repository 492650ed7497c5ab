"""Units of work on both engines, unless the name of a test says otherwise."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from typing import Any

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.util import await_only

from app.db import Connection
from app.db.engine.commit_hooks import after_commit, notify_after_commit
from app.db.engine.connector import Connector
from app.db.engine.database import Database, open_database
from app.db.engine.fair_queue import owner
from app.db.engine.long_work import long_work
from app.db.engine.postgres_sessions import POOL, most_short
from app.db.engine.sqlite import Sqlite, file_of
from app.errors import ConfigurationError, DatabaseUnavailable, Unavailable
from app.rules.request import TaskRequest
from tests.databases import Gate, listening_for
from tests.disk import full_disk, make_large, write_much
from tests.postgres import Postgres
from tests.rows import newest_tasks, plan_task
from tests.sockets import signals_to


def planned(name: str) -> Callable[[Connection], str]:
    """A unit that writes the task `task_NAME` with its attempt."""
    return lambda connection: plan_task(connection, name)


def failing(name: str, error: BaseException) -> Callable[[Connection], None]:
    """A unit that writes like `planned` and then raises."""

    def unit(connection: Connection) -> None:
        plan_task(connection, name)
        raise error

    return unit


async def stored(database: Database) -> set[str]:
    """The names of all tasks in the database."""
    found = await database.read(lambda connection: newest_tasks(connection, 1000))
    return {task.id.removeprefix("task_") for task in found}


async def test_a_unit_is_committed_when_write_returns(database: Database) -> None:
    result = await database.write(planned("a"))

    assert result == "task_a"
    assert await stored(database) == {"a"}


@pytest.mark.parametrize("method", ["read", "write"])
async def test_a_unit_is_called_with_the_arguments_of_read_or_write(database: Database, method: str) -> None:
    def unit(connection: Connection, *names: str, limit: int) -> tuple[str, tuple[str, ...], int]:
        return connection.dialect.name, names, limit

    found = await getattr(database, method)(unit, "a", "b", limit=3)

    assert found == (database.dialect.name, ("a", "b"), 3)


async def test_committed_rows_survive_closing_and_reopening(database_url: str) -> None:
    async with open_database(database_url) as first:
        await first.write(planned("a"))
    async with open_database(database_url) as second:
        assert await stored(second) == {"a"}


async def test_a_unit_that_raises_is_rolled_back_without_its_neighbours(database: Database) -> None:
    units: list[Callable[[Connection], str | None]] = [planned("a"), failing("b", KeyError("no")), planned("c")]
    results = await asyncio.gather(*map(database.write, units), return_exceptions=True)

    assert [type(result) for result in results] == [str, KeyError, str]
    assert await stored(database) == {"a", "c"}


@pytest.mark.parametrize("error", [ValueError("wrong"), LookupError(), MemoryError(), asyncio.CancelledError("odd")])
async def test_an_error_of_a_unit_reaches_its_caller_and_later_units_run(
    database: Database, error: BaseException
) -> None:
    with pytest.raises(type(error)):
        await database.write(failing("a", error))
    await database.write(planned("b"))

    assert await stored(database) == {"b"}


@pytest.mark.parametrize("method", ["read", "write"])
async def test_a_stop_iteration_reaches_the_caller_as_a_runtime_error(database: Database, method: str) -> None:
    def unit(_: Connection) -> None:
        next(iter(()))

    async with asyncio.timeout(30):
        with pytest.raises(RuntimeError, match="StopIteration"):
            await getattr(database, method)(unit)


async def test_a_violated_constraint_rolls_back_only_its_unit(database: Database) -> None:
    await database.write(planned("a"))
    results = await asyncio.gather(*(database.write(planned(name)) for name in ("b", "a", "c")), return_exceptions=True)

    assert isinstance(results[1], Exception)
    assert await stored(database) == {"a", "b", "c"}


async def test_concurrent_writes_are_all_stored(database: Database) -> None:
    names = [f"{number:03}" for number in range(100)]
    await asyncio.gather(*(database.write(planned(name)) for name in names))

    assert await stored(database) == set(names)


async def test_a_request_does_not_wait_behind_all_requests_of_another_application(database: Database) -> None:
    gate, order = Gate(), list[str]()

    async def write(name: str) -> None:
        owner.set(name)
        await database.write(lambda _: order.append(name))

    blocking = [asyncio.create_task(database.write(gate.hold)) for _ in range(POOL)]
    await gate.reached.wait()
    await asyncio.sleep(0)
    writing = [asyncio.create_task(write(name)) for name in (*["busy"] * 50, "quiet")]
    await asyncio.sleep(0)
    gate.open()
    await asyncio.gather(*blocking, *writing)

    assert order.index("quiet") <= 2
    assert order.count("busy") == 50


async def test_a_read_does_not_see_uncommitted_rows(database: Database) -> None:
    gate = Gate()

    def unit(connection: Connection) -> None:
        plan_task(connection, "a")
        gate.hold(connection)

    writing = asyncio.create_task(database.write(unit))
    await gate.reached.wait()
    before = await stored(database)
    gate.open()
    await writing

    assert (before, await stored(database)) == (set(), {"a"})


async def test_all_statements_of_a_read_see_the_same_snapshot(database: Database) -> None:
    gate = Gate()

    def unit(connection: Connection) -> tuple[int, int]:
        first = len(newest_tasks(connection, 10))
        gate.hold(connection)
        return first, len(newest_tasks(connection, 10))

    reading = asyncio.create_task(database.read(unit))
    await gate.reached.wait()
    await database.write(planned("a"))
    gate.open()

    assert await reading == (0, 0)
    assert await stored(database) == {"a"}


async def test_a_read_cannot_write(database: Database) -> None:
    with pytest.raises(Exception, match=r"read-only|readonly|cannot be read"):
        await database.read(planned("a"))
    await database.write(planned("b"))

    assert await stored(database) == {"b"}


async def test_on_sqlite_a_cancelled_caller_does_not_roll_back_its_unit(sqlite: Database) -> None:
    gate = Gate()

    def unit(connection: Connection) -> None:
        gate.hold(connection)
        plan_task(connection, "a")

    calling = asyncio.create_task(sqlite.write(unit))
    await gate.reached.wait()
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    gate.open()
    await sqlite.write(planned("b"))

    assert await stored(sqlite) == {"a", "b"}


async def test_on_sqlite_the_writer_survives_a_disk_that_fails_commit_and_rollback(sqlite: Database) -> None:
    def fail(_: Connection) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    async with asyncio.timeout(30):
        with listening_for(sqlite, "commit", fail), listening_for(sqlite, "rollback", fail), pytest.raises(Unavailable):
            await sqlite.write(planned("a"))
        await sqlite.write(planned("b"))

    assert await stored(sqlite) == {"b"}


async def test_on_sqlite_all_units_of_a_transaction_fail_if_a_full_disk_rolls_it_back(sqlite: Database) -> None:
    await sqlite.write(make_large)
    gate = Gate()
    blocked = asyncio.ensure_future(sqlite.write(gate.hold))
    await gate.reached.wait()
    works: list[Callable[[Connection], object]] = [planned("a"), write_much, planned("b")]
    writing = [asyncio.ensure_future(sqlite.write(work)) for work in works]
    await asyncio.sleep(0)  # by now they wait
    with full_disk(4_000_000):
        gate.open()
        await blocked
        outcomes = await asyncio.gather(*writing, return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [DatabaseUnavailable] * 3
    assert await stored(sqlite) == set()
    await sqlite.write(planned("c"))
    assert await stored(sqlite) == {"c"}


async def test_on_sqlite_the_event_loop_goes_on_while_another_process_has_locked_the_file(
    sqlite: Database, sqlite_url: str
) -> None:
    await sqlite.write(planned("first"))  # opens the file
    await stored(sqlite)
    with closing(sqlite3.connect(file_of(sqlite_url), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        writing = asyncio.create_task(sqlite.write(planned("a")))
        found = [await stored(sqlite) for _ in range(3)]
        was_done = writing.done()
        other.execute("ROLLBACK")
        await writing

    assert (found, was_done) == ([{"first"}] * 3, False)
    assert await stored(sqlite) == {"first", "a"}


async def test_on_postgres_short_units_leave_connections_to_long_ones(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.db.engine.places.SHORT_S", 600)
    async with open_database(postgres_url) as database:
        await database.read(lambda _: None)  # the distance of the server is known after it
        monkeypatch.setattr(Connector, "round_trip_s", 0)
        most = most_short(0)
        gates = [Gate() for _ in range(most + 1)]
        units = [asyncio.create_task(database.write(gate.hold)) for gate in gates]
        await asyncio.gather(*[gate.reached.wait() for gate in gates[:most]])
        is_busy = database.is_busy
        with long_work():
            await database.read(lambda _: None)
        has_begun = gates[most].reached.is_set()
        for gate in gates:
            gate.open()
        await asyncio.gather(*units)

    assert (is_busy, has_begun) == (True, False)


async def test_on_postgres_units_that_wait_for_a_lock_do_not_stop_the_others(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connector, "round_trip_s", 0)
    async with open_database(postgres_url) as database:
        gates = [Gate() for _ in range(most_short(0))]
        units = [asyncio.create_task(database.write(gate.hold)) for gate in gates]
        await asyncio.gather(*[gate.reached.wait() for gate in gates])

        assert await database.write(planned("a")) == "task_a"
        for gate in gates:
            gate.open()
        await asyncio.gather(*units)


async def test_the_distance_of_a_postgres_is_that_of_its_open_sessions(postgres_url: str) -> None:
    connector = Connector()
    far = connector.round_trip_s
    connection = await connector.connect(postgres_url)
    near = connector.round_trip_s
    connection.terminate()

    assert far > 1000 > near > 0
    assert connector.round_trip_s == near


@pytest.mark.parametrize(("round_trip_s", "most"), [(0, 4), (0.0007, 5), (0.003, POOL - 1), (0.05, POOL - 1)])
def test_on_postgres_more_short_units_run_at_once_if_the_server_is_far(round_trip_s: float, most: int) -> None:
    assert most_short(round_trip_s) == most


async def test_a_database_is_busy_while_units_wait_until_others_end(database: Database) -> None:
    gates = [Gate() for _ in range(POOL)]
    units = [asyncio.create_task(database.write(gates[0].hold))]
    await gates[0].reached.wait()
    with_one = database.is_busy
    units += [asyncio.create_task(database.write(gate.hold)) for gate in gates[1:]]
    await asyncio.sleep(0)
    with_many = database.is_busy
    for gate in gates:
        gate.open()
    await asyncio.gather(*units)

    assert (with_one, with_many, database.is_busy) == (False, True, False)


async def test_on_sqlite_a_file_that_stays_locked_is_unavailable(
    sqlite: Database, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.db.engine.sqlite._BUSY_S", 0)
    with closing(sqlite3.connect(file_of(sqlite_url), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for writes in (nullcontext(), long_work()):
            with writes, pytest.raises(Unavailable):
                await sqlite.write(planned("a"))

    await sqlite.write(planned("b"))
    assert await stored(sqlite) == {"b"}


async def test_on_sqlite_statements_run_on_the_event_loop_and_commits_and_long_work_in_a_thread(
    sqlite: Database,
) -> None:
    ran: list[tuple[str, bool]] = []

    def note(what: str) -> None:
        ran.append((what, threading.current_thread() is threading.main_thread()))

    with listening_for(sqlite, "commit", lambda _: note("commit")):
        await sqlite.write(lambda _: note("unit"))
        with long_work():
            await sqlite.write(lambda _: note("long unit"))

    assert ran == [("unit", True), ("commit", False), ("long unit", False), ("commit", False)]


async def test_on_sqlite_the_event_loop_goes_on_between_two_units_of_a_transaction(sqlite: Database) -> None:
    order: list[str] = []
    gate = Gate()
    blocked = asyncio.create_task(sqlite.write(gate.hold))
    await gate.reached.wait()

    def first(_: Connection) -> None:
        order.append("first")
        asyncio.get_running_loop().call_soon(order.append, "request")

    writing = [asyncio.create_task(sqlite.write(first)), asyncio.create_task(sqlite.write(lambda _: order.append("b")))]
    await asyncio.sleep(0)
    with listening_for(sqlite, "commit", lambda _: order.append("commit")):
        gate.open()
        await asyncio.gather(blocked, *writing)

    assert order == ["commit", "first", "request", "b", "commit"]


@pytest.mark.parametrize("writes", [nullcontext, long_work], ids=["usual", "long"])
async def test_on_sqlite_a_cancelled_writer_ends_its_transaction_and_goes_on(
    sqlite: Database, writes: Callable[[], AbstractContextManager[None]]
) -> None:
    """At the end of a process, asyncio cancels all tasks."""
    assert isinstance(sqlite, Sqlite)
    loop, reached, committing = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def hold_commit(_: Connection) -> None:
        loop.call_soon_threadsafe(reached.set)
        committing.wait(60)

    with listening_for(sqlite, "commit", hold_commit):
        with writes():
            first = asyncio.create_task(sqlite.write(planned("a")))
        await reached.wait()
        second = asyncio.create_task(sqlite.write(planned("b")))
        await asyncio.sleep(0)
        for _ in range(3):
            assert sqlite._writer._writing is not None
            sqlite._writer._writing.cancel()
            await asyncio.sleep(0)
        was_done = first.done()
        committing.set()
        async with asyncio.timeout(30):
            await asyncio.gather(first, second)

    assert not was_done
    assert await stored(sqlite) == {"a", "b"}


async def test_on_sqlite_a_writer_that_is_cancelled_before_it_begins_writes_later(sqlite: Database) -> None:
    assert isinstance(sqlite, Sqlite)
    writing = asyncio.ensure_future(sqlite.write(planned("a")))
    await asyncio.sleep(0)
    assert sqlite._writer._writing is not None
    sqlite._writer._writing.cancel()
    async with asyncio.timeout(30):
        await writing

    assert await stored(sqlite) == {"a"}


def test_on_sqlite_what_is_written_while_a_process_ends_is_written(sqlite_url: str) -> None:
    """As a worker does that gives back its jobs, when asyncio cancels all tasks."""
    released: list[str] = []

    async def work(database: Database, began: asyncio.Event) -> None:
        try:
            began.set()
            await asyncio.Event().wait()
        finally:
            released.append(await database.write(planned("released")))

    async def main() -> None:
        began = asyncio.Event()
        tasks.append(asyncio.create_task(work(database, began)))
        tasks.append(asyncio.create_task(database.write(planned("before"))))
        await began.wait()

    database, tasks = Sqlite(sqlite_url), list[asyncio.Task[Any]]()
    asyncio.run(main())
    found = asyncio.run(stored(database))
    asyncio.run(database.close())

    assert len(released) == 1
    assert "released" in found


async def test_on_sqlite_a_commit_hook_that_fails_stops_no_other_unit(sqlite: Database) -> None:
    reported: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["message"]))
    gate = Gate()
    blocked = asyncio.create_task(sqlite.write(gate.hold))
    await gate.reached.wait()

    def failing_hook(connection: Connection) -> None:
        plan_task(connection, "a")
        after_commit(connection, partial(int, "none"))

    writing = [asyncio.create_task(sqlite.write(work)) for work in (failing_hook, planned("b"))]
    await asyncio.sleep(0)
    gate.open()
    async with asyncio.timeout(30):
        await asyncio.gather(blocked, *writing)

    assert await stored(sqlite) == {"a", "b"}
    assert reported == ["a commit hook failed"]


async def test_on_sqlite_a_listener_that_fails_is_reported_and_stops_no_write(sqlite: Database) -> None:
    reported: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["message"]))

    def fail() -> None:
        raise ValueError

    sqlite.on_jobs(fail)
    async with asyncio.timeout(30):
        await sqlite.write(notify_after_commit)
        await sqlite.write(planned("a"))

    assert await stored(sqlite) == {"a"}
    assert reported == ["a commit hook failed"]


async def test_on_sqlite_a_long_write_is_alone_in_its_transaction(sqlite: Database) -> None:
    order: list[str] = []
    gate = Gate()
    blocked = asyncio.create_task(sqlite.write(gate.hold))
    await gate.reached.wait()
    writing = [asyncio.create_task(sqlite.write(lambda _: order.append("short")))]
    with long_work():
        writing.append(asyncio.create_task(sqlite.write(lambda _: order.append("long"))))
    writing.append(asyncio.create_task(sqlite.write(lambda _: order.append("short"))))
    await asyncio.sleep(0)
    with listening_for(sqlite, "commit", lambda _: order.append("commit")):
        gate.open()
        await asyncio.gather(blocked, *writing)

    assert order == ["commit", "long", "commit", "short", "short", "commit"]


@pytest.mark.parametrize("access", ["read", "write"])
async def test_on_sqlite_an_outage_in_a_driver_call_is_unavailable(sqlite: Database, access: str) -> None:
    def fail(_: Connection) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with pytest.raises(Unavailable):
        await getattr(sqlite, access)(fail)


async def test_a_cancelled_caller_never_leaves_half_a_unit(database: Database) -> None:
    def unit(connection: Connection) -> None:
        plan_task(connection, "a")
        plan_task(connection, "b")

    calling = asyncio.create_task(database.write(unit))
    await asyncio.sleep(0)
    calling.cancel()
    await asyncio.wait([calling])
    await database.write(planned("c"))

    assert await stored(database) in ({"c"}, {"a", "b", "c"})


async def test_closing_the_database_runs_all_waiting_units(database_url: str) -> None:
    async with open_database(database_url) as database:
        writing = [asyncio.create_task(database.write(planned(f"{number}"))) for number in range(20)]
        await asyncio.sleep(0)
        if database.dialect.name == "postgresql":
            await asyncio.gather(*writing)
    await asyncio.gather(*writing)

    async with open_database(database_url) as again:
        assert len(await stored(again)) == 20


async def test_on_sqlite_a_closed_database_is_unavailable(sqlite_url: str) -> None:
    async with open_database(sqlite_url) as database:
        pass
    with pytest.raises(Unavailable):
        await database.write(planned("a"))


async def test_on_sqlite_a_full_disk_is_unavailable_until_there_is_space(sqlite: Database) -> None:
    await sqlite.write(planned("before"))
    await sqlite.write(lambda connection: connection.exec_driver_sql("PRAGMA max_page_count=1").close())

    def big(connection: Connection) -> None:
        plan_task(connection, "big", request=TaskRequest({"prompt": "x" * 1_000_000}))

    with pytest.raises(Unavailable):
        await sqlite.write(big)
    await sqlite.write(lambda connection: connection.exec_driver_sql("PRAGMA max_page_count=1000000").close())
    await sqlite.write(planned("after"))

    assert await stored(sqlite) == {"before", "after"}


async def test_on_postgresql_a_unit_that_loses_a_deadlock_runs_again(postgresql: Database) -> None:
    tries: list[str] = []
    has_first = {"a": asyncio.Event(), "b": asyncio.Event()}

    def locks(name: str, first: str, second: str) -> Callable[[Connection], None]:
        def unit(connection: Connection) -> None:
            tries.append(name)
            connection.exec_driver_sql("set local deadlock_timeout = '50ms'").close()
            connection.exec_driver_sql(f"select pg_advisory_xact_lock({first})").close()
            has_first[name].set()
            for event in has_first.values():
                await_only(event.wait())
            connection.exec_driver_sql(f"select pg_advisory_xact_lock({second})").close()
            plan_task(connection, name)

        return unit

    await asyncio.gather(postgresql.write(locks("a", "1", "2")), postgresql.write(locks("b", "2", "1")))

    assert len(tries) == 3
    assert await stored(postgresql) == {"a", "b"}


@pytest.mark.parametrize(
    ("state", "said"),
    [
        pytest.param("57P03", "cannot be reached", id="starting"),
        pytest.param("57P01", "cannot be reached", id="stopping"),
        pytest.param("53300", "out of connections", id="full"),
        pytest.param("08006", "cannot be reached", id="connection lost"),
        pytest.param("25006", "is read-only", id="standby"),
        pytest.param("55P03", "cannot be written", id="lock timeout"),
        pytest.param("40P01", "cannot be written", id="deadlock each time"),
        pytest.param("28P01", "user or the password", id="refused login"),
        pytest.param("3D000", "no database of the name", id="no such database"),
    ],
)
async def test_on_postgresql_an_error_of_the_server_is_unavailable(postgresql: Database, state: str, said: str) -> None:
    refusal = text(f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{state}'; END $$")

    with pytest.raises(Unavailable, match=said):
        await postgresql.write(lambda connection: connection.execute(refusal))


async def test_on_postgresql_a_connection_to_a_read_only_server_is_dropped(postgresql: Database) -> None:
    """As after a failover: the host name leads to the new server, while the old one still answers."""

    def server(connection: Connection) -> int:
        found: int = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        return found

    def demoted(connection: Connection) -> None:
        connection.execute(text("SET TRANSACTION READ ONLY"))
        plan_task(connection, "refused")

    old = await postgresql.read(server)
    with pytest.raises(Unavailable):
        await postgresql.write(demoted)

    assert await postgresql.write(server) != old


async def test_on_postgresql_a_session_that_the_server_ends_between_two_statements_is_unavailable(
    postgresql: Database,
) -> None:
    fields = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection\0\0"
    farewell = b"E" + (len(fields) + 4).to_bytes(4) + fields

    def unit(connection: Connection) -> None:
        connection.connection.driver_connection._protocol.data_received(farewell)  # type: ignore[union-attr]
        connection.execute(text("SELECT 1"))

    with pytest.raises(Unavailable):
        await postgresql.write(unit)
    await postgresql.write(planned("after"))

    assert await stored(postgresql) == {"after"}


async def test_on_postgresql_an_unreachable_server_is_unavailable() -> None:
    async with open_database("postgresql://absent@/none?host=/nowhere") as database:
        with pytest.raises(Unavailable):
            await database.read(lambda _: None)


@pytest.mark.parametrize(
    ("user", "database", "said"),
    [("postgres", "none", "no database of the name"), ("absent", "postgres", "user or the password")],
    ids=["no-such-database", "no-such-user"],
)
async def test_on_postgresql_a_refused_login_is_unavailable_with_the_reason(
    postgres: Postgres, user: str, database: str, said: str
) -> None:
    address = make_url(postgres.dsn).set(username=user, database=database).render_as_string(hide_password=False)

    async with open_database(address) as refused:
        with pytest.raises(Unavailable, match=said):
            await refused.read(lambda _: None)


def test_sqlite_needs_a_file() -> None:
    with pytest.raises(ConfigurationError):
        asyncio.run(_opened("sqlite://"))


async def _opened(url: str) -> None:
    async with open_database(url):
        pass


async def notifications_after(database: Database, *units: Callable[[Connection], object]) -> int:
    """Return the number of calls of the listeners for these units, run one after another."""
    heard = await signals_to(database)
    for unit in units:
        await asyncio.gather(database.write(unit), return_exceptions=True)
    await database.write(lambda _: None)  # the writer calls the listeners before it takes this unit
    return len(heard)


async def test_listeners_are_called_once_for_a_unit_after_its_commit(database: Database) -> None:
    seen = await signals_to(database)

    def unit(connection: Connection) -> list[bool]:
        notify_after_commit(connection)
        return list(seen)

    during = await database.write(unit)
    await database.write(lambda _: None)

    assert (during, seen) == ([], [True])


async def test_listeners_are_not_called_for_a_unit_that_does_not_notify(database: Database) -> None:
    assert await notifications_after(database, planned("a"), planned("b")) == 0


async def test_listeners_are_not_called_for_a_unit_that_is_rolled_back(database: Database) -> None:
    def unit(connection: Connection) -> None:
        notify_after_commit(connection)
        raise KeyError

    assert await notifications_after(database, unit, planned("a")) == 0
    assert await stored(database) == {"a"}


async def test_a_hook_runs_once_after_the_commit_of_its_unit(database: Database) -> None:
    hooks_run: list[str] = []

    def unit(connection: Connection) -> list[str]:
        after_commit(connection, lambda: hooks_run.append("a"))
        return list(hooks_run)

    during = await database.write(unit)
    before = list(hooks_run)
    await database.write(planned("b"))

    assert (during, before, hooks_run) == ([], ["a"], ["a"])


async def test_a_hook_of_a_unit_that_is_rolled_back_never_runs(database: Database) -> None:
    hooks_run: list[str] = []

    def unit(connection: Connection, name: str, *, fails: bool) -> None:
        after_commit(connection, lambda: hooks_run.append(name))
        if fails:
            raise KeyError

    units = [partial(unit, name="a", fails=True), partial(unit, name="b", fails=False)]
    await asyncio.gather(*map(database.write, units), return_exceptions=True)
    await database.write(planned("c"))

    assert hooks_run == ["b"]


@pytest.mark.parametrize(
    ("setting", "value"),
    [("statement_timeout", "30s"), ("idle_in_transaction_session_timeout", "15s"), ("jit", "off")],
)
async def test_on_postgresql_statements_and_idle_transactions_are_bounded_and_jit_is_off(
    postgres_url: str, setting: str, value: str
) -> None:
    async with open_database(postgres_url) as opened:
        for access in (opened.write, opened.read):
            found = await access(lambda connection: connection.exec_driver_sql(f"SHOW {setting}").scalar_one())
            assert found == value
