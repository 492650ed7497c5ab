"""The writer of SQLite, and the units of work that it writes.

A unit of work is the function of one caller, or a batch. Several units share a transaction, each in a savepoint: if one
fails, it alone is rolled back. A unit that is alone in its transaction runs without a savepoint, because a savepoint
takes longer than most statements.

Statements run on the event loop, and the commit, which waits for the disk, in a thread. In a thread of its own, a unit
would take five times as long in a busy process: SQLite's driver gives up the interpreter's lock at each statement, and
the event loop takes it. Only units of work that take long (see `long_writes`) run in the thread.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from contextvars import Context
from functools import partial
from typing import Any, Protocol

from sqlalchemy import Connection, Engine, RootTransaction
from sqlalchemy.util import await_only, greenlet_spawn
from sqlalchemy.util.concurrency import in_greenlet

from app.db.engine.batches import Batcher, Bisection, Bounds, Item, Result, Waiting, Work
from app.db.engine.commit_hooks import CommitHooks, Listeners, take_hooks
from app.db.engine.long_writes import takes_long
from app.db.engine.savepoint import OUTAGE, caller_error, require_transaction, savepoint
from app.db.engine.schedule import Schedule
from app.errors import DatabaseUnavailable

_MAX_ITEMS = 64  # of a batch: with more the event loop would wait longer than 20 ms, and the rate would be the same


class RolledBack(Exception):
    """Rolls back a transaction whose only unit has failed. The unit keeps the error for its caller."""


class Unit(Protocol):
    """Runs in a transaction; then either `resolve` or `fail` is called."""

    hooks: CommitHooks  # run after the commit
    takes_long: bool

    def run(self, connection: Connection, *, owns_transaction: bool) -> None:
        """Run in the open transaction.

        `owns_transaction`: the transaction has no other unit, so a failure rolls back all of it. The unit of a caller
        then raises RolledBack. A batch raises the error of its work; the writer runs it again with False, to bisect it.
        """

    def resolve(self) -> None:
        """Pass the outcome to the callers. The transaction is durable."""

    def fail(self, error: Exception) -> None:
        """Pass `error` to the callers. The transaction is rolled back."""


class CallerUnit:
    """The unit of work of one caller."""

    def __init__(self, work: Callable[[Connection], Any]) -> None:
        self.done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.hooks = CommitHooks()
        self.takes_long = takes_long()
        self._work = work
        self._result: Any = None
        self._error: BaseException | None = None

    def run(self, connection: Connection, *, owns_transaction: bool) -> None:
        self.hooks.discard()  # of a first run whose commit failed
        try:
            with nullcontext() if owns_transaction else savepoint(connection):
                self._result = self._work(connection)
        except BaseException as error:  # passed to the caller; the writer must survive
            self._error = caller_error(error)
            take_hooks(connection).discard()
            if owns_transaction:
                raise RolledBack from error
        else:
            self.hooks = take_hooks(connection)

    def resolve(self) -> None:
        if self._error is None:
            self.hooks.run()
        if self.done.done():  # the caller is cancelled
            return
        if self._error is None:
            self.done.set_result(self._result)
        else:
            self.done.set_exception(self._error)

    def fail(self, error: Exception) -> None:
        self.hooks.discard()
        if not self.done.done():
            self.done.set_exception(error)


class SqliteBatcher(Batcher[Item, Result]):
    """The batcher of SQLite. The writer runs it as a unit of work, which takes the items that wait and writes them."""

    takes_long = False

    def __init__(self, work: Work[Item, Result], bounds: Bounds, writer: "Writer") -> None:
        super().__init__(work, bounds, _MAX_ITEMS)
        self.hooks = CommitHooks()
        self._writer = writer
        self._batch: list[Waiting[Item, Result]] = []  # is being written
        self._outcomes: list[Result | Exception] = []

    def _schedule(self) -> None:
        self._writer.add(self, owner=None)

    def run(self, connection: Connection, *, owns_transaction: bool) -> None:
        self._take_once()
        items = [waiting.item for waiting in self._batch]
        self.hooks.discard()  # of a first run that was rolled back
        self.hooks = CommitHooks()
        if not owns_transaction or not items:
            self._outcomes = self._bisect(connection, items)
            return
        try:
            self._outcomes = list(self._work(connection, items))
        except BaseException:
            take_hooks(connection).discard()
            raise
        self.hooks = take_hooks(connection)

    def resolve(self) -> None:
        self.hooks.run()
        self._resolve_batch()

    def fail(self, error: Exception) -> None:
        self.hooks.discard()
        self._take_once()  # if the transaction could not begin, nothing is taken yet
        self._outcomes = [error] * len(self._batch)
        self._resolve_batch()

    def _take_once(self) -> None:
        """Take the waiting items on the first run of a batch; a second run has them already.

        There are none if the previous batch took them.
        """
        if self._batch:
            return
        # Cleared before the items are taken: an item that is added from now on schedules the next batch.
        self._is_scheduled = False
        self._batch = self._take()
        if self._waiting:
            self._schedule_once()

    def _bisect(self, connection: Connection, items: Sequence[Item]) -> list[Result | Exception]:
        bisection = Bisection[Item, Result](items)
        for part in bisection:
            try:
                with savepoint(connection):
                    results = list(self._work(connection, part))
            except Exception as error:  # noqa: BLE001 - passed to the callers of the items that fail
                take_hooks(connection).discard()
                bisection.failed(part, caller_error(error))
            else:
                bisection.succeeded(results)
                self.hooks.add(take_hooks(connection))
        return bisection.outcomes

    def _resolve_batch(self) -> None:
        batch, self._batch = self._batch, []
        self._resolve(batch, self._outcomes)


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

    def add(self, unit: Unit, *, owner: str | None) -> None:
        """Write a single unit of this owner, or a batch, which has none."""
        self._schedule.add(unit, owner=owner)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_waiting(), context=Context())

    async def close(self) -> None:
        while self._writing is not None:
            await asyncio.wait([self._writing])
        self._release_connection()
        await asyncio.to_thread(self._thread.shutdown)

    async def _write_waiting(self) -> None:
        """Write until nothing waits. Its context is empty, because it works for all callers."""
        try:
            for units in self._schedule:
                await self._write(units)
        finally:
            self._writing = None

    async def _write(self, units: list[Unit]) -> None:
        is_single = len(units) == 1
        failure = await self._transact(units, owns_transaction=is_single)
        if failure is not None and is_single and not isinstance(failure.__cause__, OUTAGE):
            failure = await self._transact(units, owns_transaction=False)  # bisects a batch, to find the item at fault
        if failure is not None:
            for unit in units:
                unit.fail(failure)
            return
        for unit in units:
            unit.resolve()
        self._listeners.notify(set[str]().union(*[unit.hooks.topics for unit in units]))

    async def _transact(self, units: list[Unit], *, owns_transaction: bool) -> DatabaseUnavailable | None:
        if any(unit.takes_long for unit in units):
            run = partial(self._run, units, owns_transaction=owns_transaction)
            return await asyncio.get_running_loop().run_in_executor(self._thread, run)
        return await greenlet_spawn(self._run, units, owns_transaction=owns_transaction)

    def _run(self, units: list[Unit], *, owns_transaction: bool) -> DatabaseUnavailable | None:
        """Run the units in one transaction. Return the error if it failed for all of them.

        Else return None: it is committed, or its only unit has failed and keeps the error for its caller. If a batch
        arrives meanwhile, units that can wait are removed from `units`.
        """
        try:
            connection = self._connection = self._connection or self._engine.connect()
            with connection.begin() as transaction:
                self._listeners.begin(connection)
                for done, unit in enumerate(units, 1):
                    unit.run(connection, owns_transaction=owns_transaction)
                    require_transaction(connection)  # if SQLite has rolled it back, the units before are lost too
                    if in_greenlet():  # in the thread, the event loop uses the schedule meanwhile
                        await_only(asyncio.sleep(0))  # what is ready goes on between two units
                        self._schedule.shorten(units, done)
                self._commit(transaction)
        except RolledBack:
            return None
        except Exception as error:  # noqa: BLE001 - the callers must receive every error
            failure = DatabaseUnavailable("the database could not commit")
            failure.__cause__ = error
            self._release_connection(usable=False)
            return failure
        return None

    def _commit(self, transaction: RootTransaction) -> None:
        """Commit. The event loop does not wait for the disk."""
        if in_greenlet():
            await_only(asyncio.get_running_loop().run_in_executor(self._thread, transaction.commit))
        else:
            transaction.commit()

    def _release_connection(self, *, usable: bool = True) -> None:
        """Return the connection to the pool, or close it for good: that ends its transaction in any case."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if not usable:
            connection.invalidate()
        connection.close()
