"""Units of work for the writer thread of SQLite: the unit of one caller, or a batch.

Each runs in a savepoint: its failure rolls it back and does not affect the other units of the transaction. The only
unit of a transaction runs without one, because a savepoint takes longer than most statements.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from app.db.engine.batches import Batcher, Bisection, Waiting
from app.db.engine.commit_hooks import CommitHooks, take_hooks
from app.errors import Unavailable

E = TypeVar("E", bound=BaseException)
OUTAGE = (OperationalError, sqlite3.OperationalError)  # the driver's own error if a statement bypassed SQLAlchemy


class RolledBack(Exception):
    """The only unit of a transaction has failed, and has recorded its error."""


class Unit(Protocol):
    """Runs in a transaction; then either `resolve` or `fail` is called."""

    hooks: CommitHooks  # run after the commit

    def run(self, connection: Connection, *, owns_transaction: bool) -> None:
        """Run in the open transaction.

        `owns_transaction`: this is the only unit, so a failure rolls back the transaction. A single unit then raises
        RolledBack. A batch raises the error of its work, and is run again without owning the transaction.
        """

    def resolve(self) -> None:
        """Pass the outcome to the callers. The transaction is durable."""

    def fail(self, error: Exception) -> None:
        """Pass `error` to the callers. The transaction is rolled back."""


class CallerUnit:
    """The unit of work of one caller."""

    def __init__(self, work: Callable[[Connection], Any]) -> None:
        self.done: Future[Any] = Future()
        self.hooks = CommitHooks()
        self._work = work
        self._result: Any = None
        self._error: BaseException | None = None

    def run(self, connection: Connection, *, owns_transaction: bool) -> None:
        try:
            with nullcontext() if owns_transaction else _savepoint(connection):
                self._result = self._work(connection)
        except BaseException as error:  # passed to the caller; the writer thread must survive
            self._error = _caller_error(error)
            if owns_transaction:
                raise RolledBack from error
        hooks = take_hooks(connection)
        if self._error is None:
            self.hooks = hooks

    def resolve(self) -> None:
        if self._error is None:
            self.hooks.run()
            self.done.set_result(self._result)
        else:
            self.done.set_exception(self._error)

    def fail(self, error: Exception) -> None:
        self.done.set_exception(error)


class Batch:
    """A batch of one batcher, taken from it when the unit runs."""

    def __init__(
        self,
        batcher: Batcher[Any, Any],
        loop: asyncio.AbstractEventLoop,
        schedule_next: Callable[[Batcher[Any, Any]], None],
    ) -> None:
        self.hooks = CommitHooks()
        self._batcher = batcher
        self._loop = loop
        self._schedule_next = schedule_next
        self._taken: list[Waiting[Any, Any]] = []
        self._outcomes: list[Any] = []

    def run(self, connection: Connection, *, owns_transaction: bool) -> None:
        self._take()
        items = [waiting.item for waiting in self._taken]
        self.hooks = CommitHooks()  # discards those of a first run that was rolled back
        if owns_transaction and items:
            self._outcomes = list(self._batcher.work(connection, items))
            self.hooks = take_hooks(connection)
        else:
            self._outcomes = self._bisect(connection, items)

    def resolve(self) -> None:
        self.hooks.run()
        self._resolve_callers()

    def fail(self, error: Exception) -> None:
        self._take()  # if the transaction could not begin, nothing is taken yet
        self._outcomes = [error] * len(self._taken)
        self._resolve_callers()

    def _take(self) -> None:
        if self._taken:
            return
        # Cleared before the items are taken: an item that is added from now on schedules the next batch.
        self._batcher.is_scheduled = False
        self._taken = self._batcher.take()
        if len(self._batcher):
            self._schedule_next(self._batcher)

    def _bisect(self, connection: Connection, items: Sequence[Any]) -> list[Any]:
        bisection = Bisection[Any, Any](items)
        for part in bisection:
            try:
                with _savepoint(connection):
                    results = list(self._batcher.work(connection, part))
            except Exception as error:  # noqa: BLE001 - passed to the callers of the items that fail
                take_hooks(connection)
                bisection.failed(part, _caller_error(error))
            else:
                bisection.succeeded(results)
                self.hooks.add(take_hooks(connection))
        return bisection.outcomes

    def _resolve_callers(self) -> None:
        """Use one call of the event loop for all of them."""
        self._loop.call_soon_threadsafe(self._batcher.resolve, self._taken, self._outcomes)


def require_transaction(connection: Connection) -> None:
    """Raise sqlite3.OperationalError if SQLite has rolled back the whole transaction by itself, as on a full disk.

    Without this check the statements that follow would commit one by one, and the final commit would not fail.
    """
    driver: Any = connection.connection.driver_connection
    if not driver.in_transaction:
        raise sqlite3.OperationalError("SQLite has rolled back the transaction")


@contextmanager
def _savepoint(connection: Connection) -> Generator[None]:
    """Roll back the block if it fails. Bypasses SQLAlchemy, whose savepoint takes longer than a statement."""
    require_transaction(connection)
    driver: Any = connection.connection.driver_connection
    driver.execute("SAVEPOINT unit")
    try:
        yield
    except BaseException:
        with suppress(sqlite3.OperationalError):  # if the whole transaction is rolled back already
            driver.execute("ROLLBACK TO unit")
            driver.execute("RELEASE unit")
        raise
    driver.execute("RELEASE unit")


def _caller_error(error: E) -> E | Exception:
    """Return the error that the caller of a failed unit receives."""
    if isinstance(error, OUTAGE):
        outage = Unavailable("the database cannot be written at the moment")
        outage.__cause__ = error
        return outage
    if isinstance(error, StopIteration):
        stopped = stop_iteration_error()
        stopped.__cause__ = error
        return stopped
    return error


def stop_iteration_error() -> RuntimeError:
    """Return the replacement of a StopIteration, as in PEP 479. A future cannot carry that: its caller would hang."""
    return RuntimeError("a unit of work raised StopIteration")
