"""The order of the units of work that wait to be written to SQLite: batches and single units alternate.

They alternate because many single units take longer than any batch.
"""

import queue
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

Unit = TypeVar("Unit")

_MAX_UNITS = 4  # single units in one transaction: with more of them a batch that arrives meanwhile waits too long


class Schedule(Generic[Unit]):
    """Units that wait. `add` and `close` are thread-safe; one thread iterates, and blocks while there are no units."""

    def __init__(self) -> None:
        self._batches: deque[Unit] = deque()
        self._singles: deque[Unit] = deque()
        self._last_was_batch = False
        self._waiting: queue.SimpleQueue[bool] = queue.SimpleQueue()  # True for each waiting unit; False: closed

    def add(self, unit: Unit, *, is_batch: bool) -> None:
        (self._batches if is_batch else self._singles).append(unit)
        self._waiting.put(True)

    def close(self) -> None:
        """End the iteration once all units are taken. No unit may be added after this."""
        self._waiting.put(False)

    def has_batch(self) -> bool:
        """Whether a batch waits, so that the current transaction should end soon."""
        return bool(self._batches)

    def put_back(self, units: Sequence[Unit]) -> None:
        """Return single units to the head of the queue, for a later transaction. A batch is never put back."""
        for unit in reversed(units):
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
