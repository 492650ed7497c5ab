"""Whose turn it is at SQLite's writer: what waits there, and what of it one transaction takes."""

import queue
from collections import deque
from collections.abc import Iterator, Sequence

from app.db.engine.units import Batch, CallerUnit, Unit

_UNITS = 4  # that one transaction takes at most: past that a group that comes meanwhile waits too long


class Turns:
    """Groups and single units, by turns: many single ones take longer than any group.

    Anybody may `add`; one thread goes through them, and waits where there are none.
    """

    def __init__(self) -> None:
        self._groups: deque[Batch] = deque()
        self._singles: deque[CallerUnit] = deque()
        self._was_group = False  # whether a group had the last turn
        self._waiting: queue.SimpleQueue[bool] = queue.SimpleQueue()  # one for each of them; False: no more will come

    def add(self, unit: Batch | CallerUnit) -> None:
        if isinstance(unit, Batch):
            self._groups.append(unit)
        else:
            self._singles.append(unit)
        self._waiting.put(True)

    def close(self) -> None:
        """No more will be added."""
        self._waiting.put(False)

    def has_group(self) -> bool:
        """Whether a group waits, so that whoever has the turn should be short."""
        return bool(self._groups)

    def put_back(self, units: Sequence[Unit]) -> None:
        """Have these single units wait for the next turn, before all that came later."""
        for unit in reversed(units):
            assert isinstance(unit, CallerUnit)  # noqa: S101 - a group is by itself
            self._singles.appendleft(unit)
            self._waiting.put(True)

    def __iter__(self) -> Iterator[list[Unit]]:
        """What one transaction takes after the other: a group by itself, or a few single units; until all is taken."""
        closed = False
        while not (closed and self._waiting.empty()):
            units, ends = self._next()
            closed = closed or ends
            if units:
                yield units

    def _next(self) -> tuple[list[Unit], bool]:
        """Wait for the next turn; and whether `close` was come upon. Where both wait, one single unit has its turn."""
        units: list[Unit] = []
        while self._waiting.get():
            if self._groups and not units and not (self._was_group and self._singles):
                self._was_group = True
                return [self._groups.popleft()], False
            self._was_group = False
            units.append(self._singles.popleft())
            if len(units) == _UNITS or self._groups or not self._singles:
                return units, False
        return units, True
