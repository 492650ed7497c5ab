"""The thread that writes to SQLite, and the schedule of what it writes."""

import queue
import threading
from collections import deque
from collections.abc import Iterator, Sequence

from sqlalchemy import Connection, Engine

from app.db.engine.commit_hooks import Listeners, take_hooks
from app.db.engine.units import OUTAGE, Batch, CallerUnit, RolledBack, Unit, require_transaction
from app.errors import Unavailable

_MAX_UNITS = 4  # single units in one transaction: with more of them a batch that arrives meanwhile waits too long


class Schedule:
    """The units that wait, as the transactions that take them: batches and single units alternate.

    They alternate because many single units take longer than any batch. `add` and `close` are thread-safe; one thread
    iterates, and blocks while there are no units.
    """

    def __init__(self) -> None:
        self._batches: deque[Batch] = deque()
        self._singles: deque[CallerUnit] = deque()
        self._last_was_batch = False
        self._waiting: queue.SimpleQueue[bool] = queue.SimpleQueue()  # True for each waiting unit; False: closed

    def add(self, unit: Batch | CallerUnit) -> None:
        if isinstance(unit, Batch):
            self._batches.append(unit)
        else:
            self._singles.append(unit)
        self._waiting.put(True)

    def close(self) -> None:
        """End the iteration once all units are taken. No unit may be added after this."""
        self._waiting.put(False)

    def has_batch(self) -> bool:
        """Whether a batch waits, so that the current transaction should end soon."""
        return bool(self._batches)

    def put_back(self, units: Sequence[Unit]) -> None:
        """Return single units to the head of the queue, for a later transaction."""
        for unit in reversed(units):
            assert isinstance(unit, CallerUnit)  # noqa: S101 - a batch is the only unit of its transaction
            self._singles.appendleft(unit)
            self._waiting.put(True)

    def __iter__(self) -> Iterator[list[Unit]]:
        """Yield the units of each transaction: one batch, or a few single units."""
        closed = False
        while not (closed and self._waiting.empty()):
            units, ends = self._next()
            closed = closed or ends
            if units:
                yield units

    def _next(self) -> tuple[list[Unit], bool]:
        """Wait for the units of the next transaction; the flag says that `close` was called.

        If batches and single units wait, one single unit comes between two batches.
        """
        units: list[Unit] = []
        while self._waiting.get():
            if self._batches and not units and not (self._last_was_batch and self._singles):
                self._last_was_batch = True
                return [self._batches.popleft()], False
            self._last_was_batch = False
            units.append(self._singles.popleft())
            if len(units) == _MAX_UNITS or self._batches or not self._singles:
                return units, False
        return units, True


class Writer:
    """Writes units of work in a thread of its own.

    `add` is thread-safe. `close` returns once all units that were added before it are written.
    """

    def __init__(self, engine: Engine, listeners: Listeners) -> None:
        self._engine = engine
        self._listeners = listeners
        self._schedule = Schedule()
        self._connection: Connection | None = None  # kept: a checkout takes as long as a statement
        self._thread = threading.Thread(target=self._write_until_closed, name="sqlite-writer", daemon=True)
        self._thread.start()

    def add(self, unit: Batch | CallerUnit) -> None:
        self._schedule.add(unit)

    def close(self) -> None:
        self._schedule.close()
        self._thread.join()

    def _write_until_closed(self) -> None:
        for units in self._schedule:
            self._write(units)
        self._release_connection()

    def _write(self, units: list[Unit]) -> None:
        is_single = len(units) == 1
        failure = self._transact(units, owns_transaction=is_single)
        if failure is not None and is_single and not isinstance(failure.__cause__, OUTAGE):
            failure = self._transact(units, owns_transaction=False)  # bisects a batch, to find the item that fails
        if failure is not None:
            for unit in units:
                unit.fail(failure)
            return
        for unit in units:
            unit.resolve()
        self._listeners.notify(set[str]().union(*[unit.hooks.topics for unit in units]))

    def _transact(self, units: list[Unit], *, owns_transaction: bool) -> Unavailable | None:
        """Run the units in one transaction. Return None if it is committed, or rolled back for its only unit's error.

        If a batch arrives meanwhile, the units after the running one are removed from `units` and put back.
        """
        try:
            connection = self._connection = self._connection or self._engine.connect()
            with connection.begin():
                take_hooks(connection)  # discards those of a batch that was rolled back
                for done, unit in enumerate(units, 1):
                    unit.run(connection, owns_transaction=owns_transaction)
                    require_transaction(connection)  # if SQLite has rolled it back, the units before are lost too
                    if self._schedule.has_batch() and units[done:]:
                        self._schedule.put_back(units[done:])
                        del units[done:]
        except RolledBack:
            return None
        except Exception as error:  # noqa: BLE001 - the callers must receive every error
            failure = Unavailable("the database could not commit")
            failure.__cause__ = error
            self._release_connection()
            return failure
        return None

    def _release_connection(self) -> None:
        """Return the connection to the pool, which resets it."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
