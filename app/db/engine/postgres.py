"""The PostgreSQL engine: asyncpg, with one transaction for each unit of work."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar

import asyncpg  # type: ignore[import-untyped]
from sqlalchemy import Connection, Dialect, Engine, event, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.engine.batches import BOUNDS, Batcher, Batchers, Bisection, Bounds, Work
from app.db.engine.commit_hooks import CommitHooks, Listeners, take_hooks
from app.db.engine.listen import Listening
from app.db.engine.postgres_url import make_engine
from app.db.tables import events
from app.errors import Unavailable

T = TypeVar("T")
P = ParamSpec("P")
Item = TypeVar("Item")
_Begin = Callable[[], AbstractAsyncContextManager[AsyncConnection]]

_POOL = 10
# The statements of a batch take any number of rows. Planning them for each batch takes as long as running them.
_PLAN_ONCE = "SET plan_cache_mode = force_generic_plan"
# A transaction that a hanging process leaves open keeps all later events from the readers of the feed.
_IDLE_IN_TRANSACTION = "60s"
# JIT compilation takes longer than any statement of ours, and a wrong estimate would start it.
_SETTINGS = (f"SET idle_in_transaction_session_timeout = '{_IDLE_IN_TRANSACTION}'", "SET jit = off")
_JOBS_CHANNEL = "ch_pgqueuer"  # PgQueuer notifies it of each change of its table; only an insert matters here
_DEADLOCK_OR_CONFLICT = {"40001", "40P01"}
_LOCKED = "55P03"  # a lock was not granted within the lock_timeout
_READ_ONLY = "25006"
_MAX_TRIES = 3
_INDEX_LOCK = 0x666C7578  # the key of the advisory lock of the process that builds indexes
_IS_UNFINISHED = "SELECT NOT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)"
_AWAY = "the database cannot be reached at the moment"
# Errors that pass, or that an operator can repair at the server: the prefix of the SQLSTATE, and the message.
_OUTAGES = {
    "08": _AWAY,
    _READ_ONLY: "the database is read-only at the moment",  # a standby, or a nearly full disk
    "28": "the database refuses the user or the password in FLUXHOOK_DATABASE_URL",
    "3D": "the server has no database of the name in FLUXHOOK_DATABASE_URL",
    "53": "the database is out of connections or disk space at the moment",
    "57": _AWAY,  # the server ended the session, or is still starting
}


class Postgres:
    """The database at `postgresql://...`. A transaction that ends in a deadlock or a conflict is run again."""

    def __init__(self, url: str, bounds: Bounds = BOUNDS) -> None:
        # Parameters are hidden because errors must not show prompts. A dead connection is found before it is used.
        self._engine = make_engine(
            url,
            hide_parameters=True,
            pool_pre_ping=True,
            pool_size=_POOL,
            max_overflow=0,
            pool_timeout=10,
        )
        event.listen(self._engine.sync_engine, "connect", _set_up)
        event.listen(self._engine.sync_engine, "handle_error", _leave_a_standby)
        # A read has one snapshot, as on SQLite, and cannot write.
        self._reading = self._engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self._listeners = Listeners()
        self._batchers = Batchers(bounds)
        self._writing: set[asyncio.Task[None]] = set()
        self._connections: dict[Batcher[Any, Any], AsyncConnection] = {}  # one for each batcher
        self._listening = Listening(url)

    @property
    def dialect(self) -> Dialect:
        return self._engine.dialect

    @property
    def engines(self) -> tuple[Engine, ...]:
        """The engines of SQLAlchemy that it uses, for listeners to their events."""
        return (self._engine.sync_engine,)

    async def write(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._write(self._engine.begin, lambda connection: work(connection, *args, **kwargs))

    async def _write(self, begin: _Begin, work: Callable[[Connection], T]) -> T:
        for attempt in range(1, _MAX_TRIES + 1):
            try:
                return await self._transaction(begin, work)
            except DBAPIError as error:
                state = _sqlstate(error)
                if state == _LOCKED or (state in _DEADLOCK_OR_CONFLICT and attempt == _MAX_TRIES):
                    raise Unavailable("the database cannot be written at the moment") from error
                if state not in _DEADLOCK_OR_CONFLICT:
                    raise
        raise AssertionError("unreachable: the last try returns or raises")

    def write_batched(self, work: Work[Item, T], item: Item, size: int = 0) -> "asyncio.Future[T]":
        batcher = self._batchers.get(work)
        done = batcher.add(item, size)
        if not batcher.is_scheduled:
            batcher.is_scheduled = True
            writing = asyncio.create_task(self._write_batches(batcher))
            self._writing.add(writing)
            writing.add_done_callback(self._writing.discard)
        return done

    async def read(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._transaction(self._reading.begin, lambda connection: work(connection, *args, **kwargs))

    async def build_indexes(self, definitions: Mapping[str, str]) -> bool:
        """Create indexes concurrently, without blocking writes. Return False if another process is building indexes.

        `definitions` maps the name of an index to the SQL after ON. This waits for all open transactions, without a
        time limit. An invalid index, left by an earlier try, is created again.
        """
        engine = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            # Not a blocking lock: CREATE INDEX CONCURRENTLY would wait for the transaction that waits for the lock.
            if not await connection.scalar(text(f"SELECT pg_try_advisory_lock({_INDEX_LOCK})")):
                return False
            try:
                for name, definition in definitions.items():
                    if await connection.scalar(text(_IS_UNFINISHED), {"name": name}):
                        await connection.exec_driver_sql(f"DROP INDEX CONCURRENTLY {name}")
                    await connection.exec_driver_sql(f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON {definition}")
            finally:
                await connection.scalar(text(f"SELECT pg_advisory_unlock({_INDEX_LOCK})"))
        return True

    def on_signal(self, listener: Callable[[], None]) -> None:
        self._listeners.add(listener)
        self._listening.add(_JOBS_CHANNEL, listener, holding='"insert"')

    def on_event(self, listener: Callable[[], None]) -> None:
        self._listening.add(events.CHANNEL, listener)

    async def close(self) -> None:
        await asyncio.gather(*self._writing, return_exceptions=True)
        for connection in self._connections.values():
            await connection.close()
        await self._listening.close()
        await self._engine.dispose()

    async def _write_batches(self, batcher: Batcher[Any, Any]) -> None:
        """Write one batch after the other, until no item waits."""
        try:
            while len(batcher):
                batch = batcher.take()
                batcher.resolve(batch, await self._outcomes(batcher, [waiting.item for waiting in batch]))
        finally:
            batcher.is_scheduled = False

    async def _outcomes(self, batcher: Batcher[Item, T], items: Sequence[Item]) -> list[T | Exception]:
        """Write the items, and return a result or an error for each. A batch that fails is bisected."""
        bisection = Bisection[Item, T](items)
        for part in bisection:
            try:
                results = await self._write_part(batcher, part)
            except Exception as error:  # noqa: BLE001 - passed to the callers of the items that fail
                bisection.failed(part, error)
            else:
                bisection.succeeded(results)
        return bisection.outcomes

    async def _write_part(self, batcher: Batcher[Item, T], part: Sequence[Item]) -> Sequence[T]:
        """Write on the connection that the batcher keeps, which saves the check of a pooled connection."""

        def work(connection: Connection) -> Sequence[T]:
            return batcher.work(connection, part)

        was_connected = batcher in self._connections
        begin = partial(self._begin, batcher)
        try:
            return await self._write(begin, work)
        except Unavailable:
            if not was_connected:
                raise
        return await self._write(begin, work)  # the server may have restarted since the last batch

    @asynccontextmanager
    async def _begin(self, batcher: Batcher[Any, Any]) -> AsyncGenerator[AsyncConnection]:
        if batcher not in self._connections:
            connection = await self._engine.connect()
            await connection.exec_driver_sql(_PLAN_ONCE)
            await connection.commit()
            self._connections[batcher] = connection
        try:
            async with self._connections[batcher].begin():
                yield self._connections[batcher]
        except BaseException:
            broken = self._connections.pop(batcher)
            await broken.invalidate()
            await broken.close()
            raise

    async def _transaction(self, begin: _Begin, work: Callable[[Connection], T]) -> T:
        def unit(connection: Connection) -> tuple[T, CommitHooks]:
            take_hooks(connection)  # discards those of a unit that was rolled back
            return work(connection), take_hooks(connection)

        try:
            async with begin() as connection:
                result, hooks = await connection.run_sync(unit)
        except (OperationalError, InterfaceError, PoolTimeout, OSError) as error:
            raise Unavailable(_AWAY) from error
        except DBAPIError as error:
            outage = _AWAY if _is_driver_fault(error) else _outage(error)
            if outage is None:
                raise
            raise Unavailable(outage) from error
        hooks.run()
        self._listeners.notify(hooks.topics)
        return result


def _set_up(connection: Any, _record: Any) -> None:
    """Send the settings as statements, because connection poolers refuse them as parameters of the connection."""
    cursor = connection.cursor()
    for setting in _SETTINGS:
        cursor.execute(setting)
    cursor.close()
    connection.commit()


def _outage(error: DBAPIError) -> str | None:
    """Return the message for an error of the server, or None for an error of the statement."""
    state = str(_sqlstate(error))
    return next((message for prefix, message in _OUTAGES.items() if state.startswith(prefix)), None)


def _leave_a_standby(context: Any) -> None:
    """Drop the connection to a server that is no longer the primary, so that the next unit looks for the new one."""
    if getattr(context.original_exception, "sqlstate", None) == _READ_ONLY:
        context.is_disconnect = True


def _is_driver_fault(error: DBAPIError) -> bool:
    """Whether asyncpg lost the state of its connection, as when the server ends it between two messages."""
    return isinstance(getattr(error.orig, "__cause__", None), asyncpg.InternalClientError)


def _sqlstate(error: DBAPIError) -> Any:
    return getattr(error.orig, "sqlstate", None)
