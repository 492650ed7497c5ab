"""What the writer thread of SQLite is handed: one caller's unit of work, or a group that is written at once.

Each runs in a savepoint of its own: its failure undoes it and leaves its neighbours alone. One without neighbours does
without: a savepoint takes longer than most statements.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, Protocol

from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from app.db.engine.batches import Batcher, Waiting, bisect
from app.db.engine.commit_hooks import Effect, take_hooks, take_notified
from app.errors import Unavailable

OUTAGE = (OperationalError, sqlite3.OperationalError)  # by itself where it went past SQLAlchemy


class Undone(Exception):
    """The only unit of a transaction has failed, and knows why."""


class Unit(Protocol):
    """Run in a transaction, then told how that ended."""

    asked: set[str]  # what a signal is to be sent about

    def run(self, connection: Connection, *, alone: bool) -> None:
        """`alone`: the transaction is for nobody else, so what fails undoes it. A single unit raises Undone then; a
        group raises what its work raises: it is to be run again, not alone.
        """

    def release(self) -> None:
        """The transaction is durable."""

    def fail(self, error: Exception) -> None:
        """It is not."""


class CallerUnit:
    """One caller's unit of work."""

    def __init__(self, work: Callable[[Connection], Any]) -> None:
        self.done: Future[Any] = Future()
        self.asked: set[str] = set()
        self._work = work
        self._result: Any = None
        self._error: BaseException | None = None
        self._effects: list[Effect] = []

    def run(self, connection: Connection, *, alone: bool) -> None:
        try:
            with nullcontext() if alone else _savepoint(connection):
                self._result = self._work(connection)
        except BaseException as error:  # handed to the caller; the writer lives on
            self._error = _told(error)
            if alone:
                raise Undone from error
        asked, effects = take_notified(connection), take_hooks(connection)
        if self._error is None:
            self.asked, self._effects = asked, effects

    def release(self) -> None:
        if self._error is None:
            for effect in self._effects:
                effect()
            self.done.set_result(self._result)
        else:
            self.done.set_exception(self._error)

    def fail(self, error: Exception) -> None:
        self.done.set_exception(error)


class Batch:
    """All that waits in a line by the time that it is its turn."""

    def __init__(
        self, line: Batcher[Any, Any], loop: asyncio.AbstractEventLoop, give_turn: Callable[[Batcher[Any, Any]], None]
    ) -> None:
        self.asked: set[str] = set()
        self._line = line
        self._loop = loop
        self._give_turn = give_turn
        self._taken: list[Waiting[Any, Any]] = []
        self._outcomes: list[Any] = []
        self._effects: list[Effect] = []

    def run(self, connection: Connection, *, alone: bool) -> None:
        self._take()
        items = [each.item for each in self._taken]
        self.asked, self._effects = set(), []  # nothing of a first run that was undone
        if alone and items:
            self._outcomes = list(self._line.work(connection, items))
            self.asked, self._effects = take_notified(connection), take_hooks(connection)
        else:
            self._outcomes = self._run(connection, items)

    def release(self) -> None:
        for effect in self._effects:
            effect()
        self._tell()

    def fail(self, error: Exception) -> None:
        self._take()  # nothing is, where the transaction could not even begin
        self._outcomes = [error] * len(self._taken)
        self._tell()

    def _take(self) -> None:
        if self._taken:
            return
        # First: whoever joins from now on asks for the next turn.
        self._line.has_turn = False
        self._taken = self._line.take()
        if len(self._line):
            self._give_turn(self._line)

    def _run(self, connection: Connection, items: Sequence[Any]) -> list[Any]:
        if not items:
            return []
        try:
            with _savepoint(connection):
                outcomes = list(self._line.work(connection, items))
        except Exception as caught:  # noqa: BLE001 - whoever is at fault is told, and nobody else
            take_notified(connection)
            take_hooks(connection)
            error = _told(caught)
            if len(items) == 1 or isinstance(error, Unavailable):
                return [error] * len(items)
            first, second = bisect(items)
            return self._run(connection, first) + self._run(connection, second)
        self.asked |= take_notified(connection)
        self._effects += take_hooks(connection)
        return outcomes

    def _tell(self) -> None:
        """In one call of the loop, however many there are."""
        self._loop.call_soon_threadsafe(self._line.release, self._taken, self._outcomes)


def require_transaction(connection: Connection) -> None:
    """Raises sqlite3.OperationalError where SQLite has undone the whole transaction by itself, as on a full disk.

    What is done from then on would be done at once and for itself, and a commit would find nothing to complain of.
    """
    driver: Any = connection.connection.driver_connection
    if not driver.in_transaction:
        raise sqlite3.OperationalError("the transaction is undone")


@contextmanager
def _savepoint(connection: Connection) -> Generator[None]:
    """Undo what is done within it when that fails. Past SQLAlchemy, which takes longer for one than for a statement."""
    require_transaction(connection)
    driver: Any = connection.connection.driver_connection
    driver.execute("SAVEPOINT unit")
    try:
        yield
    except BaseException:
        with suppress(sqlite3.OperationalError):  # where the whole transaction is undone already
            driver.execute("ROLLBACK TO unit")
            driver.execute("RELEASE unit")
        raise
    driver.execute("RELEASE unit")


def _told(error: BaseException) -> BaseException:
    """What the caller of a failed unit learns."""
    if isinstance(error, OUTAGE):
        outage = Unavailable("the database cannot be written at the moment")
        outage.__cause__ = error
        return outage
    if isinstance(error, StopIteration):
        ended = stopped()
        ended.__cause__ = error
        return ended
    return error


def stopped() -> RuntimeError:
    """In place of a StopIteration, which no future can carry: its caller would wait for ever (as in PEP 479)."""
    return RuntimeError("a unit of work raised StopIteration")
