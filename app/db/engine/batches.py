"""Batches: many small writes that share one transaction, with an outcome for each.

An item that arrives while nothing is being written is written at once, as a batch of one. The items that arrive while
a batch is written form the next batch.
"""

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

from sqlalchemy import Connection

from app.errors import DatabaseUnavailable, Overloaded, Unavailable

Item = TypeVar("Item")
Result = TypeVar("Result")

# A unit of work for a batch: takes the items and returns their results, both in the same order.
Work = Callable[[Connection, Sequence[Item]], Sequence[Result]]

# The limits of one batch. In a larger one the first items would wait too long for the last.
_MAX_ITEMS = 512
_MAX_BYTES = 8 * 1024 * 1024


class Bounds(NamedTuple):
    """Limits of what one `Batcher` may hold."""

    items: int = 8192  # waiting items: about as many as are written in a second
    size: int = 64 * 1024 * 1024  # bytes, including the batch that is being written


BOUNDS = Bounds()


class Waiting(NamedTuple, Generic[Item, Result]):
    """An item that waits to be written, its size in bytes, and the future of its result."""

    item: Item
    size: int
    done: "asyncio.Future[Result]"


class Batcher(ABC, Generic[Item, Result]):
    """Collects items and writes them in batches with its `Work`. Each engine has a subclass: see `Database.batcher`."""

    def __init__(self, work: Work[Item, Result], bounds: Bounds, max_items: int = _MAX_ITEMS) -> None:
        self.closed = False  # set when the database is closed
        self._work = work
        self._bounds = bounds
        self._max_items = max_items
        self._waiting: deque[Waiting[Item, Result]] = deque()
        self._bytes = 0
        self._is_scheduled = False  # whether the next batch is about to be taken
        self._newest: asyncio.Future[Result] | None = None

    def add(self, item: Item, size: int = 0) -> "asyncio.Future[Result]":
        """Add an item of `size` bytes to the next batch, and return a future of its result. Call it on the event loop.

        The write is durable when the future is done. A batch that fails is bisected, so that only the items at fault
        fail. Raises at once: Overloaded if too much waits already, DatabaseUnavailable if the database is closed.
        """
        if self.closed:
            raise DatabaseUnavailable("the database is closed")
        if len(self._waiting) >= self._bounds.items or self._bytes + size > self._bounds.size:
            raise Overloaded("too many writes are waiting for the database: try again in a moment")
        done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._bytes += size
        self._waiting.append(Waiting(item, size, done))
        self._newest = done
        self._schedule_once()
        return done

    @property
    def pending(self) -> "asyncio.Future[Result] | None":
        """The future of the newest item, if it is not written yet. Read it on the event loop."""
        return None if self._newest is None or self._newest.done() else self._newest

    def _schedule_once(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._schedule()

    @abstractmethod
    def _schedule(self) -> None:
        """Have the engine take and write the next batch."""

    def _take(self) -> list[Waiting[Item, Result]]:
        """Remove and return the next batch, in the order of arrival."""
        batch: list[Waiting[Item, Result]] = []
        size = 0
        while self._waiting and len(batch) < self._max_items and size < _MAX_BYTES:
            batch.append(self._waiting.popleft())
            size += batch[-1].size
        return batch

    def _resolve(self, batch: Sequence[Waiting[Item, Result]], outcomes: Sequence[Result | Exception]) -> None:
        """Pass the outcomes to the callers; a cancelled caller is skipped."""
        for waiting, outcome in zip(batch, outcomes, strict=True):
            self._bytes -= waiting.size
            if waiting.done.done():
                continue
            if isinstance(outcome, Exception):
                waiting.done.set_exception(outcome)
            else:
                waiting.done.set_result(outcome)


class Bisection(Generic[Item, Result]):
    """Bisects a batch that fails until each item at fault is alone, so that all others are written.

    Iterate over the parts to write, and report each as `succeeded` or `failed` before the next; a failed part is split
    in two. At the end `outcomes` has a result or an error for each item, in order.
    """

    def __init__(self, items: Sequence[Item]) -> None:
        self.outcomes: list[Result | Exception] = []
        self._parts = [items] if items else []

    def __iter__(self) -> Iterator[Sequence[Item]]:
        while self._parts:
            yield self._parts.pop()

    def succeeded(self, results: Sequence[Result]) -> None:
        self.outcomes += results

    def failed(self, part: Sequence[Item], error: Exception) -> None:
        """Record the error of a part that cannot be split. An outage concerns all its items and is not split."""
        if len(part) == 1 or isinstance(error, Unavailable):
            self.outcomes += [error] * len(part)
        else:
            middle = len(part) // 2
            self._parts += [part[middle:], part[:middle]]  # the last one is next
