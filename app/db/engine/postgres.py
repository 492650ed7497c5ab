"""The PostgreSQL engine: asyncpg, with one transaction for each unit of work."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Dialect, Engine, text
from sqlalchemy.exc import DBAPIError

from app.db.engine.async_engine import AsyncConnection, AsyncEngine
from app.db.engine.batches import BOUNDS, Batcher, Bounds, Item, Result, Work
from app.db.engine.commit_hooks import CommitHooks, Listeners
from app.db.engine.connector import Connector
from app.db.engine.listen import Listening
from app.db.engine.long_work import takes_long
from app.db.engine.places import Places
from app.db.engine.postgres_batcher import Begin, PostgresBatcher
from app.db.engine.postgres_errors import DEADLOCK_OR_CONFLICT, LOCKED, NO_CONNECTION, ConnectionLost, outage, sqlstate
from app.db.engine.postgres_sessions import POOL, make_pool, most_short
from app.db.engine.postgres_url import DATABASE_URL, DIRECT_URL
from app.db.engine.timeouts import TIMEOUTS, Timeouts
from app.db.tables import events
from app.errors import ConfigurationError, DatabaseUnavailable

T = TypeVar("T")
P = ParamSpec("P")

_JOBS_CHANNEL = "ch_pgqueuer"  # PgQueuer notifies it of each change of its table; only an insert matters here
_MAX_TRIES = 3
# The advisory lock of the process that builds indexes: one row if it was free.
_TRY_INDEX_LOCK = f"SELECT WHERE pg_try_advisory_xact_lock({0x666C7578})"
_WITHOUT_TIME_LIMIT = "SET LOCAL idle_in_transaction_session_timeout = 0"
_WITHOUT_STATEMENT_LIMIT = "SET statement_timeout = 0"
_IS_UNFINISHED = "SELECT NOT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)"
_IDENTITY = text("SELECT current_database(), pg_postmaster_start_time()")


class Postgres:
    """The database at `postgresql://...`.

    A transaction that ends in a deadlock or a conflict is run again. So is one whose connection is lost before its
    commit was sent, and a read whose connection is lost at any time, on a new connection.

    `direct_url` is its address without a connection pooler, for schema changes and for LISTEN.
    """

    def __init__(
        self, url: str, bounds: Bounds = BOUNDS, direct_url: str | None = None, timeouts: Timeouts = TIMEOUTS
    ) -> None:
        self._connector = Connector(timeouts)
        self._engine = make_pool(url, self._connector)
        self._has_direct_url = direct_url is not None
        setting = DATABASE_URL if direct_url is None else DIRECT_URL
        connector = Connector(timeouts.for_migrations())
        self._direct = make_pool(direct_url or url, connector, setting, keeps_connections=False)
        # A read has one snapshot, as on SQLite, and cannot write.
        self._reading = self._engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        # The batcher keeps a connection. The others are given to the owners of the units that wait, in turn.
        self._places = Places(
            POOL - 1, timeouts.connect_s, NO_CONNECTION, lambda: most_short(self._connector.round_trip_s)
        )
        self._listeners = Listeners()
        self._bounds = bounds
        self._batchers: list[PostgresBatcher[Any, Any]] = []
        self._listening = Listening(url, direct_url, timeouts)

    @property
    def dialect(self) -> Dialect:
        return self._engine.dialect

    @property
    def engines(self) -> tuple[Engine, ...]:
        """The engines of SQLAlchemy that it uses, for listeners to their events."""
        return (self._engine.sync_engine,)

    @property
    def is_busy(self) -> bool:
        return self._places.is_busy

    @property
    def is_pooled(self) -> bool:
        """Whether the connections lead to a pooler; known once a unit has run."""
        return self._connector.is_pooled

    async def write(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        async with self._places.taken(takes_long=takes_long()):
            return await self.transact(self._engine.begin, lambda connection: work(connection, *args, **kwargs))

    async def write_directly(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Write as `write` does, with more time for each statement: to change the schema.

        It bypasses a pooler, which may limit the time, if the database has a direct address.
        """
        return await self.transact(self._direct.begin, lambda connection: work(connection, *args, **kwargs))

    async def transact(self, begin: Begin, work: Callable[[Connection], T]) -> T:
        """Run `work` in the transaction that `begin` opens; again after a deadlock, a conflict or a lost connection."""
        for attempt in range(1, _MAX_TRIES + 1):
            try:
                return await self._on_a_living_connection(begin, work)
            except DBAPIError as error:
                state = sqlstate(error)
                if state == LOCKED or (state in DEADLOCK_OR_CONFLICT and attempt == _MAX_TRIES):
                    raise DatabaseUnavailable("the database cannot be written at the moment") from error
                if state not in DEADLOCK_OR_CONFLICT:
                    raise
        raise AssertionError("unreachable: the last try returns or raises")

    def batcher(self, work: Work[Item, Result]) -> Batcher[Item, Result]:
        batcher = PostgresBatcher(work, self._bounds, self._engine, self.transact, self._connector)
        self._batchers.append(batcher)
        return batcher

    async def read(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        def unit(connection: Connection) -> T:
            return work(connection, *args, **kwargs)

        async with self._places.taken(takes_long=takes_long()):
            return await self._on_a_living_connection(self._reading.begin, unit, writes=False)

    async def check_direct_url(self) -> None:
        """Check that the direct URL, if there is one, leads to the same database.

        Raises ConfigurationError if it does not, DatabaseUnavailable if no server answers.
        """
        if not self._has_direct_url:
            return
        database = await self.read(_identity)
        try:
            direct = await self.write_directly(_identity)
        except DatabaseUnavailable as error:
            raise DatabaseUnavailable(f"{DIRECT_URL}: {error.detail}") from error.__cause__
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
            async with _unlimited(building_engine) as connection:
                for name, definition in definitions.items():
                    if await connection.scalar(text(_IS_UNFINISHED), {"name": name}):
                        await connection.exec_driver_sql(f"DROP INDEX CONCURRENTLY {name}")  # security: ours
                    create = f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON {definition}"
                    await connection.exec_driver_sql(create)
        return True

    def on_jobs(self, listener: Callable[[], None], claimer: object | None = None) -> None:
        self._listeners.add(listener)
        self._listeners.claimer = claimer or self._listeners.claimer
        # The commits of this process call the listener themselves, unless its worker has claimed the jobs with them.
        own = self._connector.sessions
        self._listening.add(_JOBS_CHANNEL, listener, containing='"insert"', but_not_from=own)

    def show_process(self, session_name: str) -> None:
        """Let other processes see that this one lives, by a session with this name."""
        self._listening.show(session_name)

    @property
    def shows_processes(self) -> bool:
        """Whether they can see it; through a pooler alone they cannot. Known once a unit has run."""
        return self._listening.is_shown

    def on_events(self, listener: Callable[[], None]) -> None:
        self._listening.add(events.CHANNEL, listener)

    async def close(self) -> None:
        for batcher in self._batchers:
            await batcher.close()
        await self._listening.close()
        await self._engine.dispose()
        await self._direct.dispose()

    async def _on_a_living_connection(self, begin: Begin, work: Callable[[Connection], T], *, writes: bool = True) -> T:
        """Run a transaction, and once more if its connection is lost while nothing can have been committed.

        Connections of the pool are not checked before: a lost one is found by the BEGIN. The pool then replaces all
        that are as old, so the second connection is a new one.
        """
        try:
            return await self._transaction(begin, work, writes=writes)
        except ConnectionLost:
            return await self._transaction(begin, work, writes=writes)

    async def _transaction(self, begin: Begin, work: Callable[[Connection], T], *, writes: bool) -> T:
        hooks = CommitHooks()

        def unit(connection: Connection) -> T:
            nonlocal hooks
            hooks = self._listeners.begin(connection)
            return work(connection)

        is_committing, cancellations = False, _cancellations()
        try:
            async with begin() as connection:
                result = await connection.run_sync(unit)
                is_committing = writes
        except BaseException as error:
            hooks.discard()
            if is_committing:  # the transaction may be durable
                self._listeners.notify(hooks.topics)
            if not isinstance(error, Exception):
                raise
            _end_if_cancelled(cancellations)  # a cancelled request ends its connection, and the rollback fails
            unavailable = outage(error, is_committing=is_committing)
            if unavailable is None:
                raise
            raise unavailable from error
        hooks.run()
        self._listeners.notify(hooks.topics)
        return result


def _cancellations() -> int:
    """Count the requests to cancel the current task that were not taken back."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


def _end_if_cancelled(before: int) -> None:
    """Raise CancelledError if the current task was cancelled since `before`, and another error has hidden that."""
    if _cancellations() > before:
        raise asyncio.CancelledError


@asynccontextmanager
async def _unlimited(engine: AsyncEngine) -> AsyncGenerator[AsyncConnection]:
    """Open a connection whose statements may take any time, and close it."""
    async with engine.connect() as connection:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        driver.limit(None)
        await connection.exec_driver_sql(_WITHOUT_STATEMENT_LIMIT)
        try:
            yield connection
        finally:
            await connection.invalidate()


def _identity(connection: Connection) -> tuple[Any, ...]:
    """Return what tells a database from all others, until its server is restarted."""
    return tuple(connection.execute(_IDENTITY).one())
