"""The writer of SQLite. Several units of work share a transaction, each in a savepoint, so that one can fail alone.

A unit that is alone in its transaction runs without a savepoint, because a savepoint takes longer than most statements.

Statements run on the event loop, and the commit, which waits for the disk, in a thread. In a thread of its own, a unit
would take five times as long in a busy process: SQLite's driver gives up the interpreter's lock at each statement, and
the event loop takes it. Only units of work that take long (see `long_work`) run in the thread.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from functools import partial

from sqlalchemy import Connection, Engine
from sqlalchemy.util import greenlet_spawn

from app.db.engine.commit_hooks import Listeners
from app.db.engine.savepoint import OUTAGE, require_transaction
from app.db.engine.schedule import Schedule
from app.db.engine.uncancelled import finished, in_thread, pause
from app.db.engine.units import RolledBack, Unit
from app.errors import DatabaseUnavailable


class Writer:
    """Writes units of work, one transaction after the other. Use it on the event loop.

    `close` returns once all units that were added before it are written.
    """

    def __init__(self, engine: Engine, listeners: Listeners) -> None:
        self._engine = engine
        self._listeners = listeners
        self._schedule = Schedule[Unit]()
        self._connection: Connection | None = None  # kept: a checkout takes as long as a statement
        self._thread = ThreadPoolExecutor(1, "sqlite-writer")
        self._writing: asyncio.Task[None] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether units wait until those that are being written end."""
        return len(self._schedule) > 0

    def add(self, unit: Unit, *, owner: str | None) -> None:
        """Write a single unit of this owner; or a batch, or a unit that takes long, which have none."""
        self._schedule.add(unit, owner=owner)
        self._begin_to_write()

    async def close(self) -> None:
        while self._writing is not None:
            await asyncio.wait([self._writing])
        if self._connection is not None:
            await asyncio.to_thread(self._release_connection)
        await asyncio.to_thread(self._thread.shutdown)

    def _begin_to_write(self) -> None:
        if self._writing is None and self._schedule:
            # In an empty context, because it works for all callers.
            self._writing = asyncio.create_task(self._write_waiting(), context=Context())
            self._writing.add_done_callback(self._end_writing)

    def _end_writing(self, _: "asyncio.Task[None]") -> None:
        """Note the end of the task. It may have been cancelled before it began, so something may wait."""
        self._writing = None
        self._begin_to_write()

    async def _write_waiting(self) -> None:
        """Write until nothing waits."""
        for units in self._schedule:
            await self._write(units)

    async def _write(self, units: list[Unit]) -> None:
        is_single = len(units) == 1
        failure = await self._transact(units, owns_transaction=is_single)
        if failure is not None and is_single and not isinstance(failure.__cause__, OUTAGE):
            failure = await self._transact(units, owns_transaction=False)  # bisects a batch, to find the item at fault
        for unit in units:
            _report_failure(unit.resolve if failure is None else partial(unit.fail, failure))
        if failure is None:
            topics = set[str]().union(*[unit.hooks.topics for unit in units])
            _report_failure(partial(self._listeners.notify, topics))

    async def _transact(self, units: list[Unit], *, owns_transaction: bool) -> DatabaseUnavailable | None:
        run = partial(self._run, units, owns_transaction=owns_transaction)
        if any(unit.takes_long for unit in units):
            return await finished(asyncio.get_running_loop().run_in_executor(self._thread, run))
        return await greenlet_spawn(run)

    def _run(self, units: list[Unit], *, owns_transaction: bool) -> DatabaseUnavailable | None:
        """Run the units in one transaction. Return the error if it failed for all of them.

        Else return None: it is committed, or its only unit has failed and keeps the error for its caller. If a batch
        arrives meanwhile, units that can wait are removed from `units`.
        """
        try:
            connection = self._connection = self._connection or in_thread(self._thread, self._engine.connect)
            with connection.begin() as transaction:
                self._listeners.begin(connection)
                for done, unit in enumerate(units, 1):
                    unit.run(connection, owns_transaction=owns_transaction)
                    require_transaction(connection)  # if SQLite has rolled it back, the units before are lost too
                    if done < len(units):
                        pause(0)  # the requests that are ready go on between two units
                        self._schedule.shorten(units, done)
                in_thread(self._thread, transaction.commit)
        except RolledBack:
            return None
        except BaseException as error:  # noqa: BLE001 - the callers must receive every error
            failure = DatabaseUnavailable("the database could not commit")
            failure.__cause__ = error
            self._release_connection(usable=False)
            return failure
        return None

    def _release_connection(self, *, usable: bool = True) -> None:
        """Return the connection to the pool, or close it for good: that ends its transaction in any case."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if not usable:
            connection.invalidate()
        connection.close()


def _report_failure(call: Callable[[], object]) -> None:
    """Call what runs hooks or listeners. None of them may fail; if one does, the units after it are still written."""
    try:
        call()
    except Exception as error:  # noqa: BLE001 - reported as that of a callback of the event loop
        context = {"message": "a commit hook failed", "exception": error}
        asyncio.get_running_loop().call_exception_handler(context)
