"""Items that are written together: the line they wait in, within bounds, and how each of them fares.

Nobody waits for company: whoever comes while nothing is being written is written alone. Whoever comes meanwhile is
written with all who did.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from sqlalchemy import Connection

from app.errors import Overloaded

T = TypeVar("T")
R = TypeVar("R")

# A unit of work for many: what came, in order; and what came of it, in the same order.
Work = Callable[[Connection, Sequence[T]], Sequence[R]]

_GROUP = 512  # items that one transaction takes: past that the first ones wait for nothing
_GROUP_BYTES = 8 * 1024 * 1024


class Bounds(NamedTuple):
    """What may wait for the same work at once."""

    items: int = 8192  # about a second's
    size: int = 64 * 1024 * 1024  # in bytes, with what is being written


BOUNDS = Bounds()


class Waiting(NamedTuple, Generic[T, R]):
    """One item in line, and the future that tells its caller."""

    item: T
    size: int
    done: "asyncio.Future[R]"


class Batcher(Generic[T, R]):
    """Those who wait for the same work. `join` is called on the event loop, the rest by whoever writes."""

    def __init__(self, work: Work[T, R], bounds: Bounds) -> None:
        self.work = work
        self._bounds = bounds
        self.has_turn = False  # whether somebody is about to take from it
        self._waiting: deque[Waiting[T, R]] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def join(self, item: T, size: int) -> "asyncio.Future[R]":
        """Wait in line with an item of so many bytes. Raises Overloaded at once when the line is full."""
        if len(self._waiting) >= self._bounds.items or self._bytes + size > self._bounds.size:
            raise Overloaded("more waits to be written than can be held: try again in a moment")
        done: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._bytes += size
        self._waiting.append(Waiting(item, size, done))
        return done

    def take(self) -> list[Waiting[T, R]]:
        """The next group, in the order in which they came."""
        group: list[Waiting[T, R]] = []
        size = 0
        while self._waiting and len(group) < _GROUP and size < _GROUP_BYTES:
            group.append(self._waiting.popleft())
            size += group[-1].size
        return group

    def release(self, group: Sequence[Waiting[T, R]], outcomes: Sequence[R | Exception]) -> None:
        """Tell the callers, on the event loop. Who has gone away is not told."""
        for each, outcome in zip(group, outcomes, strict=True):
            self._bytes -= each.size
            if each.done.done():
                continue
            if isinstance(outcome, Exception):
                each.done.set_exception(outcome)
            else:
                each.done.set_result(outcome)


class Batchers:
    """The lines of one database, one for each kind of work."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._lines: dict[Work[Any, Any], Batcher[Any, Any]] = {}

    def of(self, work: Work[T, R]) -> Batcher[T, R]:
        line = self._lines.get(work)
        if line is None:
            line = self._lines[work] = Batcher(work, self._bounds)
        return line


def bisect(items: Sequence[T]) -> tuple[Sequence[T], Sequence[T]]:
    """A group that failed, cut in two: so whoever is at fault is found, and the others are done without it."""
    middle = len(items) // 2
    return items[:middle], items[middle:]
