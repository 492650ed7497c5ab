"""The shared engine: asyncpg, one transaction for each unit of work."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import asyncpg  # type: ignore[import-untyped]
from sqlalchemy import Connection, Dialect, Engine, event, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.engine.batches import BOUNDS, Batcher, Batchers, Bounds, Work, bisect
from app.db.engine.commit_hooks import CommitHooks, Effect, take_hooks, take_notified
from app.db.engine.listen import Listening
from app.db.engine.postgres_url import make_engine
from app.db.tables import events
from app.errors import Unavailable

T = TypeVar("T")
R = TypeVar("R")
Item = TypeVar("Item")
_Begin = Callable[[], AbstractAsyncContextManager[AsyncConnection]]

_POOL = 10
# A group's statements are made for any number of rows. To plan them for each group takes as long as to run them.
_PLAN_ONCE = "SET plan_cache_mode = force_generic_plan"
# A transaction that a hanging process leaves open would keep the feed's later events from everybody.
_IDLE_IN_TRANSACTION = "60s"
# What our statements do is done before the server could have compiled them; a wrong estimate would have it try.
_SETTINGS = (f"SET idle_in_transaction_session_timeout = '{_IDLE_IN_TRANSACTION}'", "SET jit = off")
_JOBS_CHANNEL = "ch_pgqueuer"  # PgQueuer tells there of each change of its table; a job that is new concerns all
_DEADLOCK_OR_CONFLICT = {"40001", "40P01"}
_LOCKED = "55P03"  # for longer than the operator lets anybody wait
_READ_ONLY = "25006"
_TRIES = 3
_BUILDING = 0x666C7578  # names the lock of who makes indexes, among all advisory locks of the database
_IS_UNFINISHED = "SELECT NOT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)"
_AWAY = "the database cannot be reached at the moment"
# What passes, or is mended at the server while we wait: how its SQLSTATE begins, and what is said of it.
_OUTAGES = {
    "08": _AWAY,
    _READ_ONLY: "the database is read-only at the moment",  # a standby, or one that its host keeps from filling up
    "28": "the database refuses the user or the password in FLUXHOOK_DATABASE_URL",
    "3D": "the server has no database of the name in FLUXHOOK_DATABASE_URL",
    "53": "the database has no room at the moment",  # for one more connection, or on its disk
    "57": _AWAY,  # ended from outside, or still starting
}


class Postgres:
    """`postgresql://...`; a transaction that loses a race for its rows is run again."""

    def __init__(self, url: str, bounds: Bounds = BOUNDS) -> None:
        # Errors must not show prompts. A connection that died with the server is found before it is used.
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
        # A read sees one instant, as on SQLite, and cannot write.
        self._reading = self._engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self._signals = CommitHooks()
        self._lines = Batchers(bounds)
        self._in_hand: set[asyncio.Task[None]] = set()
        self._kept: dict[Batcher[Any, Any], AsyncConnection] = {}  # one for each line's groups
        self._listening = Listening(url)

    @property
    def dialect(self) -> Dialect:
        return self._engine.dialect

    @property
    def engines(self) -> tuple[Engine, ...]:
        """SQLAlchemy's engines behind it, for listeners to their events."""
        return (self._engine.sync_engine,)

    async def write(self, work: Callable[[Connection], T]) -> T:
        return await self._write(self._engine.begin, work)

    async def _write(self, begin: _Begin, work: Callable[[Connection], T]) -> T:
        for attempt in range(1, _TRIES + 1):
            try:
                return await self._transaction(begin, work)
            except DBAPIError as error:
                state = _sqlstate(error)
                if state == _LOCKED or (state in _DEADLOCK_OR_CONFLICT and attempt == _TRIES):
                    raise Unavailable("the database cannot be written at the moment") from error
                if state not in _DEADLOCK_OR_CONFLICT:
                    raise
        raise AssertionError("unreachable: the last try returns or raises")

    def write_batched(self, work: Work[Item, T], item: Item, size: int = 0) -> "asyncio.Future[T]":
        line = self._lines.of(work)
        done = line.join(item, size)
        if not line.has_turn:
            line.has_turn = True
            writing = asyncio.create_task(self._write_line(line))
            self._in_hand.add(writing)
            writing.add_done_callback(self._in_hand.discard)
        return done

    async def read(self, work: Callable[[Connection], T]) -> T:
        return await self._transaction(self._reading.begin, work)

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
        await asyncio.gather(*self._in_hand, return_exceptions=True)
        for connection in self._kept.values():
            await connection.close()
        await self._listening.close()
        await self._engine.dispose()

    async def _write_line(self, line: Batcher[Any, Any]) -> None:
        """One group after the other, until nobody waits."""
        try:
            while len(line):
                group = line.take()
                line.release(group, await self._outcomes(line, [each.item for each in group]))
        finally:
            line.has_turn = False

    async def _outcomes(self, line: Batcher[Item, T], items: Sequence[Item]) -> list[T | Exception]:
        """What came of each: a group that fails is halved until who is at fault stands alone."""
        try:
            return list(await self._write_group(line, lambda connection: line.work(connection, items)))
        except Exception as error:  # noqa: BLE001 - whoever is at fault is told, and nobody else
            if len(items) == 1 or isinstance(error, Unavailable):
                return [error] * len(items)
        first, second = bisect(items)
        return await self._outcomes(line, first) + await self._outcomes(line, second)

    async def _write_group(self, line: Batcher[Any, Any], work: Callable[[Connection], R]) -> R:
        """On a connection that the line keeps from group to group, so that none begins by asking whether it lives."""
        was_kept = line in self._kept
        begin = partial(self._begin_kept, line)
        try:
            return await self._write(begin, work)
        except Unavailable:
            if not was_kept:
                raise
        return await self._write(begin, work)  # the server may have gone and come back since the last group

    @asynccontextmanager
    async def _begin_kept(self, line: Batcher[Any, Any]) -> AsyncGenerator[AsyncConnection]:
        if line not in self._kept:
            connection = await self._engine.connect()
            await connection.exec_driver_sql(_PLAN_ONCE)
            await connection.commit()
            self._kept[line] = connection
        try:
            async with self._kept[line].begin():
                yield self._kept[line]
        except BaseException:
            broken = self._kept.pop(line)
            await broken.invalidate()
            await broken.close()
            raise

    async def _transaction(self, begin: _Begin, work: Callable[[Connection], T]) -> T:
        def unit(connection: Connection) -> tuple[T, set[str], list[Effect]]:
            for forget in (take_notified, take_hooks):  # what a unit left that was undone
                forget(connection)
            return work(connection), take_notified(connection), take_hooks(connection)

        try:
            async with begin() as connection:
                result, asked, effects = await connection.run_sync(unit)
        except (OperationalError, InterfaceError, PoolTimeout, OSError) as error:
            raise Unavailable(_AWAY) from error
        except DBAPIError as error:
            outage = _AWAY if _is_the_drivers(error) else _outage(error)
            if outage is None:
                raise
            raise Unavailable(outage) from error
        for effect in effects:
            effect()
        self._signals.send(asked)
        return result


def _set_up(connection: Any, _record: Any) -> None:
    """By a statement: poolers between us and the server refuse to be told so when they are connected to."""
    cursor = connection.cursor()
    for setting in _SETTINGS:
        cursor.execute(setting)
    cursor.close()
    connection.commit()


def _outage(error: DBAPIError) -> str | None:
    """What is wrong with the server; None where it is the statement."""
    state = str(_sqlstate(error))
    return next((said for begins, said in _OUTAGES.items() if state.startswith(begins)), None)


def _leave_a_standby(context: Any) -> None:
    """A server that was the primary lets us stay: the next unit must look for the one that is it now."""
    if getattr(context.original_exception, "sqlstate", None) == _READ_ONLY:
        context.is_disconnect = True


def _is_the_drivers(error: DBAPIError) -> bool:
    """Whether the driver lost track of its connection, as when the server says good-bye between two messages."""
    return isinstance(getattr(error.orig, "__cause__", None), asyncpg.InternalClientError)


def _sqlstate(error: DBAPIError) -> Any:
    return getattr(error.orig, "sqlstate", None)
