"""The shared engine: asyncpg, one transaction for each unit of work."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import asyncpg  # type: ignore[import-untyped]
from sqlalchemy import Connection, Dialect, event, make_url, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.errors import Unavailable
from app.record import events
from app.record.listening import Listening
from app.record.signals import Signals, take_effects, was_asked

T = TypeVar("T")

_POOL = 10
# A transaction that a hanging process leaves open would keep the feed's later events from everybody.
_IDLE_IN_TRANSACTION = "60s"
_JOBS_CHANNEL = "ch_pgqueuer"  # PgQueuer tells there of each change of its table; a job that is new concerns all
_DEADLOCK_OR_CONFLICT = {"40001", "40P01"}
_TRIES = 3
_BUILDING = 0x666C7578  # names the lock of who makes indexes, among all advisory locks of the database
_IS_UNFINISHED = "SELECT NOT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)"
# Classes of SQLSTATE: no connection, no room, ended from outside or still starting. They pass.
_PASSES = ("08", "53", "57")


class Postgres:
    """`postgresql://...`; a transaction that loses a race for its rows is run again."""

    def __init__(self, url: str) -> None:
        # Errors must not show prompts. A connection that died with the server is found before it is used.
        self._engine = create_async_engine(
            make_url(url).set(drivername="postgresql+asyncpg"),
            hide_parameters=True,
            pool_pre_ping=True,
            pool_size=_POOL,
            max_overflow=0,
            pool_timeout=10,
        )
        event.listen(self._engine.sync_engine, "connect", _bound_idling)
        # A read sees one instant, as on SQLite, and cannot write.
        self._reading = self._engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self._signals = Signals()
        self._listening = Listening(url)

    @property
    def dialect(self) -> Dialect:
        return self._engine.dialect

    async def write(self, work: Callable[[Connection], T]) -> T:
        for attempt in range(1, _TRIES + 1):
            try:
                return await self._transaction(self._engine, work)
            except DBAPIError as error:
                if _sqlstate(error) not in _DEADLOCK_OR_CONFLICT or attempt == _TRIES:
                    raise
        raise AssertionError("unreachable: the last try returns or raises")

    async def read(self, work: Callable[[Connection], T]) -> T:
        return await self._transaction(self._reading, work)

    async def build(self, indexes: Mapping[str, str]) -> bool:
        """Make these indexes without a lock that anybody would wait for; False while another process does it.

        `indexes` says by name what follows ON. It waits for the transactions that are open, and takes as long as it
        takes. What an earlier try left unfinished is made anew.
        """
        engine = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            # Tried, not waited for: who waits in a statement would itself be waited for by CREATE INDEX.
            if not await connection.scalar(text(f"SELECT pg_try_advisory_lock({_BUILDING})")):
                return False
            try:
                for name, what in indexes.items():
                    if await connection.scalar(text(_IS_UNFINISHED), {"name": name}):
                        await connection.exec_driver_sql(f"DROP INDEX CONCURRENTLY {name}")
                    await connection.exec_driver_sql(f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON {what}")
            finally:
                await connection.scalar(text(f"SELECT pg_advisory_unlock({_BUILDING})"))
        return True

    def on_signal(self, listener: Callable[[], None]) -> None:
        self._signals.add(listener)
        self._listening.add(_JOBS_CHANNEL, listener, holding='"insert"')

    def on_event(self, listener: Callable[[], None]) -> None:
        self._listening.add(events.CHANNEL, listener)

    async def close(self) -> None:
        await self._listening.close()
        await self._engine.dispose()

    async def _transaction(self, engine: AsyncEngine, work: Callable[[Connection], T]) -> T:
        try:
            async with engine.begin() as connection:
                for forget in (was_asked, take_effects):  # what a unit left that was undone
                    await connection.run_sync(forget)
                result = await connection.run_sync(work)
                asked = await connection.run_sync(was_asked)
                effects = await connection.run_sync(take_effects)
        except (OperationalError, InterfaceError, PoolTimeout, OSError) as error:
            raise _away() from error
        except DBAPIError as error:
            if _is_the_drivers(error) or str(_sqlstate(error)).startswith(_PASSES):
                raise _away() from error
            raise
        for effect in effects:
            effect()
        self._signals.send(asked)
        return result


def _bound_idling(connection: Any, _record: Any) -> None:
    """By a statement: poolers between us and the server refuse to be told so when they are connected to."""
    cursor = connection.cursor()
    cursor.execute(f"SET idle_in_transaction_session_timeout = '{_IDLE_IN_TRANSACTION}'")
    cursor.close()
    connection.commit()


def _away() -> Unavailable:
    return Unavailable("the database cannot be reached at the moment")


def _is_the_drivers(error: DBAPIError) -> bool:
    """Whether the driver lost track of its connection, as when the server says good-bye between two messages."""
    return isinstance(getattr(error.orig, "__cause__", None), asyncpg.InternalClientError)


def _sqlstate(error: DBAPIError) -> Any:
    return getattr(error.orig, "sqlstate", None)
