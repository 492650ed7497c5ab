"""The order of the units of work that wait to be written to SQLite: batches and single units alternate.

They alternate because many single units take longer than any batch. The single units of several owners take turns.
"""

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

from app.db.engine.fair_queue import FairQueue

Unit = TypeVar("Unit")

# Single units in one transaction. With more, a batch that arrives meanwhile waits too long, and an owner could have two
# units before the first one of another, which `shorten` would put back.
_MAX_UNITS = 4


class Schedule(Generic[Unit]):
    """Units that wait. An iteration over it ends when none waits."""

    def __init__(self) -> None:
        self._batches: deque[Unit] = deque()
        self._singles: FairQueue[Unit] = FairQueue()
        self._taken: list[tuple[Unit, str]] = []  # the single units of the current transaction
        self._owners = 0  # of those units
        self._last_was_batch = False

    def __len__(self) -> int:
        return len(self._batches) + len(self._singles)

    def add(self, unit: Unit, *, owner: str | None) -> None:
        """Add a single unit of this owner; or a batch, or what is alone in its transaction like one, without owner."""
        if owner is None:
            self._batches.append(unit)
        else:
            self._singles.add(unit, owner)

    def shorten(self, units: list[Unit], done: int) -> None:
        """If a batch waits, remove from these units of the current transaction those that can wait for a later one.

        The first `done` ones cannot, and each owner keeps one.
        """
        kept = max(done, self._owners)
        if self._batches:
            while len(units) > kept:
                self._singles.put_back(*self._taken.pop())
                units.pop()

    def __iter__(self) -> Iterator[list[Unit]]:
        """Yield the units of each transaction: one batch, or a few single units.

        If batches and single units wait, one single unit of each owner comes between two batches.
        """
        while True:
            if self._batches and not (self._last_was_batch and self._singles):
                self._last_was_batch = True
                yield [self._batches.popleft()]
            elif self._singles:
                self._last_was_batch = False
                yield self._take_singles()
            else:
                return

    def _take_singles(self) -> list[Unit]:
        self._taken = [self._singles.take() for _ in range(min(_MAX_UNITS, len(self._singles)))]
        self._owners = len({owner for _, owner in self._taken})
        units = [unit for unit, _ in self._taken]
        self.shorten(units, 0)
        return units
