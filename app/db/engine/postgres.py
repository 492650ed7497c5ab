"""The PostgreSQL engine: asyncpg, with one transaction for each unit of work."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Dialect, Engine, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.db.engine.batches import BOUNDS, Batcher, Bisection, Bounds, Item, Result, Work
from app.db.engine.commit_hooks import CommitHooks, Listeners, take_hooks
from app.db.engine.connector import Connector
from app.db.engine.listen import Listening
from app.db.engine.postgres_errors import AWAY, DEADLOCK_OR_CONFLICT, LOCKED, outage, sqlstate
from app.db.engine.postgres_sessions import make_pool
from app.db.engine.postgres_url import DATABASE_URL, DIRECT_URL
from app.db.tables import events
from app.errors import ConfigurationError, Unavailable

T = TypeVar("T")
P = ParamSpec("P")
_Begin = Callable[[], AbstractAsyncContextManager[AsyncConnection]]

# The statements of a batch take any number of rows. Planning them for each batch takes as long as running them.
_PLAN_ONCE = "SET plan_cache_mode = force_generic_plan"
_JOBS_CHANNEL = "ch_pgqueuer"  # PgQueuer notifies it of each change of its table; only an insert matters here
_MAX_TRIES = 3
# The advisory lock of the process that builds indexes: one row if it was free.
_TRY_INDEX_LOCK = f"SELECT WHERE pg_try_advisory_xact_lock({0x666C7578})"
_WITHOUT_TIME_LIMIT = "SET LOCAL idle_in_transaction_session_timeout = 0"
_IS_UNFINISHED = "SELECT NOT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)"
_IDENTITY = text("SELECT current_database(), pg_postmaster_start_time()")


class Postgres:
    """The database at `postgresql://...`. A transaction that ends in a deadlock or a conflict is run again.

    `direct_url` is its address without a connection pooler, for schema changes and for LISTEN.
    """

    def __init__(self, url: str, bounds: Bounds = BOUNDS, direct_url: str | None = None) -> None:
        self._connector = Connector()
        self._engine = make_pool(url, self._connector)
        self._direct = self._engine if direct_url is None else make_pool(direct_url, Connector(), DIRECT_URL)
        # A read has one snapshot, as on SQLite, and cannot write.
        self._reading = self._engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self._listeners = Listeners()
        self._bounds = bounds
        self._batchers: list[PostgresBatcher[Any, Any]] = []
        self._listening = Listening(url, direct_url)

    @property
    def dialect(self) -> Dialect:
        return self._engine.dialect

    @property
    def engines(self) -> tuple[Engine, ...]:
        """The engines of SQLAlchemy that it uses, for listeners to their events."""
        return (self._engine.sync_engine,)

    @property
    def is_pooled(self) -> bool:
        """Whether the connections lead to a pooler; known once a unit has run."""
        return self._connector.is_pooled

    async def write(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.transact(self._engine.begin, lambda connection: work(connection, *args, **kwargs))

    async def write_directly(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Write as `write` does, past a pooler if its database has a direct address: poolers may limit the time."""
        return await self.transact(self._direct.begin, lambda connection: work(connection, *args, **kwargs))

    async def transact(self, begin: _Begin, work: Callable[[Connection], T]) -> T:
        """Run `work` in the transaction that `begin` opens; again after a deadlock or a conflict."""
        for attempt in range(1, _MAX_TRIES + 1):
            try:
                return await self._transaction(begin, work)
            except DBAPIError as error:
                state = sqlstate(error)
                if state == LOCKED or (state in DEADLOCK_OR_CONFLICT and attempt == _MAX_TRIES):
                    raise Unavailable("the database cannot be written at the moment") from error
                if state not in DEADLOCK_OR_CONFLICT:
                    raise
        raise AssertionError("unreachable: the last try returns or raises")

    def batcher(self, work: Work[Item, Result]) -> Batcher[Item, Result]:
        batcher = PostgresBatcher(work, self._bounds, self._engine, self)
        self._batchers.append(batcher)
        return batcher

    async def read(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._transaction(self._reading.begin, lambda connection: work(connection, *args, **kwargs))

    async def check_direct_url(self) -> None:
        """Check that the direct URL, if there is one, leads to the same database.

        Raises ConfigurationError if it does not, Unavailable if no server answers.
        """
        if self._direct is self._engine:
            return
        database = await self.read(_identity)
        try:
            direct = await self.write_directly(_identity)
        except Unavailable as error:
            raise Unavailable(f"{DIRECT_URL}: {error.detail}") from error.__cause__
        if direct != database:
            raise ConfigurationError(f"{DIRECT_URL}: leads to another database than {DATABASE_URL}")

    async def build_indexes(self, definitions: Mapping[str, str]) -> bool:
        """Create indexes concurrently, without blocking writes. Return False if another process is building indexes.

        `definitions` maps the name of an index to the SQL after ON. This waits for all open transactions, without a
        time limit. An invalid index, left by an earlier try, is created again.
        """
        # The lock belongs to a transaction, because a pooler keeps no session. CREATE INDEX CONCURRENTLY would wait for
        # this transaction if it had a snapshot, and for one that waits for the lock.
        locking_engine = self._direct.execution_options(isolation_level="READ COMMITTED")
        building_engine = self._direct.execution_options(isolation_level="AUTOCOMMIT")
        async with locking_engine.begin() as locking:
            await locking.exec_driver_sql(_WITHOUT_TIME_LIMIT)
            driver: Any = (await locking.get_raw_connection()).driver_connection
            # The simple protocol leaves no open portal, and so no snapshot. Its command tag has the number of rows.
            if await driver.execute(_TRY_INDEX_LOCK) != "SELECT 1":
                return False
            async with building_engine.connect() as connection:
                for name, definition in definitions.items():
                    if await connection.scalar(text(_IS_UNFINISHED), {"name": name}):
                        await connection.exec_driver_sql(f"DROP INDEX CONCURRENTLY {name}")
                    await connection.exec_driver_sql(f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON {definition}")
        return True

    def on_jobs(self, listener: Callable[[], None]) -> None:
        self._listeners.add(listener)
        self._listening.add(_JOBS_CHANNEL, listener, containing='"insert"')

    def on_events(self, listener: Callable[[], None]) -> None:
        self._listening.add(events.CHANNEL, listener)

    async def close(self) -> None:
        for batcher in self._batchers:
            await batcher.close()
        await self._listening.close()
        await self._engine.dispose()
        await self._direct.dispose()

    async def _transaction(self, begin: _Begin, work: Callable[[Connection], T]) -> T:
        def unit(connection: Connection) -> tuple[T, CommitHooks]:
            take_hooks(connection)  # discards those of a unit that was rolled back
            return work(connection), take_hooks(connection)

        try:
            async with begin() as connection:
                result, hooks = await connection.run_sync(unit)
        except (OperationalError, InterfaceError, PoolTimeout, OSError) as error:
            raise Unavailable(AWAY) from error
        except DBAPIError as error:
            message = outage(error)
            if message is None:
                raise
            raise Unavailable(message) from error
        hooks.run()
        self._listeners.notify(hooks.topics)
        return result


class PostgresBatcher(Batcher[Item, Result]):
    """A batcher that writes its batches one after the other, in an asyncio task that ends when no item waits."""

    def __init__(self, work: Work[Item, Result], bounds: Bounds, engine: AsyncEngine, database: Postgres) -> None:
        super().__init__(work, bounds)
        self._engine = engine
        self._database = database
        self._connection: AsyncConnection | None = None  # kept, which saves the check of a pooled connection
        self._writing: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Accept no more items, and return once all waiting items are written."""
        self.closed = True
        if self._writing is not None:
            await asyncio.gather(self._writing, return_exceptions=True)
        if self._connection is not None:
            await self._connection.close()

    def _schedule(self) -> None:
        self._writing = asyncio.create_task(self._write_batches())

    async def _write_batches(self) -> None:
        try:
            while self._waiting:
                batch = self._take()
                self._resolve(batch, await self._outcomes([waiting.item for waiting in batch]))
        finally:
            self._is_scheduled = False

    async def _outcomes(self, items: Sequence[Item]) -> list[Result | Exception]:
        """Write the items, and return a result or an error for each. A batch that fails is bisected."""
        bisection = Bisection[Item, Result](items)
        for part in bisection:
            try:
                results = await self._write(part)
            except Exception as error:  # noqa: BLE001 - passed to the callers of the items that fail
                bisection.failed(part, error)
            else:
                bisection.succeeded(results)
        return bisection.outcomes

    async def _write(self, items: Sequence[Item]) -> Sequence[Result]:
        was_connected = self._connection is not None
        try:
            return await self._database.transact(self._begin, lambda connection: self._work(connection, items))
        except Unavailable:
            if not was_connected:
                raise
        # The server may have restarted since the last batch.
        return await self._database.transact(self._begin, lambda connection: self._work(connection, items))

    @asynccontextmanager
    async def _begin(self) -> AsyncGenerator[AsyncConnection]:
        if self._connection is None:
            connection = await self._engine.connect()
            if not self._database.is_pooled:  # a pooler keeps no plan
                await connection.exec_driver_sql(_PLAN_ONCE)
                await connection.commit()
            self._connection = connection
        try:
            async with self._connection.begin():
                yield self._connection
        except BaseException:
            broken, self._connection = self._connection, None
            await broken.invalidate()
            await broken.close()
            raise


def _identity(connection: Connection) -> tuple[Any, ...]:
    """Return what tells a database from all others, until its server is restarted."""
    return tuple(connection.execute(_IDENTITY).one())
