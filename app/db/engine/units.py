"""The units of work that the writer of SQLite writes: the function of one caller, or a batch."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, Protocol

from sqlalchemy import Connection

from app.db.engine.batches import Batcher, Bisection, Bounds, Item, Result, Waiting, Work
from app.db.engine.commit_hooks import CommitHooks, take_hooks
from app.db.engine.long_work import takes_long
from app.db.engine.savepoint import caller_error, savepoint

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
        self._error = None
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
        try:
            if self._error is None:
                self.hooks.run()
        finally:
            if self.done.done():  # the caller is cancelled
                pass
            elif self._error is None:
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

    def __init__(self, work: Work[Item, Result], bounds: Bounds, write: Callable[[Unit], None]) -> None:
        super().__init__(work, bounds, _MAX_ITEMS)
        self.hooks = CommitHooks()
        self._write = write
        self._batch: list[Waiting[Item, Result]] = []  # is being written
        self._outcomes: list[Result | Exception] = []

    def _schedule(self) -> None:
        self._write(self)

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
        try:
            self.hooks.run()
        finally:
            self._resolve_batch()

    def fail(self, error: Exception) -> None:
        self.hooks.discard()
        if not self._batch:  # the transaction could not begin: no item need wait for the next failure
            self._is_scheduled = False
            while self._waiting:
                self._batch += self._take()
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
