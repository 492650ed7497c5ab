"""Batches: many small writes that share one transaction, with an outcome for each.

An item that arrives while nothing is being written is written at once, as a batch of one. The items that arrive while
a batch is written form the next batch.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from sqlalchemy import Connection

from app.errors import Overloaded, Unavailable

T = TypeVar("T")
R = TypeVar("R")

# A unit of work for a batch: takes the items and returns their results, both in the same order.
Work = Callable[[Connection, Sequence[T]], Sequence[R]]

# The limits of one batch. In a larger one the first items would wait too long for the last.
_MAX_ITEMS = 512
_MAX_BYTES = 8 * 1024 * 1024


class Bounds(NamedTuple):
    """Limits of what one `Batcher` may hold."""

    items: int = 8192  # waiting items: about as many as are written in a second
    size: int = 64 * 1024 * 1024  # bytes, including the batch that is being written


BOUNDS = Bounds()


class Waiting(NamedTuple, Generic[T, R]):
    """An item that waits to be written, its size in bytes, and the future of its result."""

    item: T
    size: int
    done: "asyncio.Future[R]"


class Batcher(Generic[T, R]):
    """Collects the items of one `Work` into batches. All methods but `take` must be called on the event loop."""

    def __init__(self, work: Work[T, R], bounds: Bounds) -> None:
        self.work = work
        self.is_scheduled = False  # whether a writer is about to take the next batch
        self._bounds = bounds
        self._waiting: deque[Waiting[T, R]] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        """The number of waiting items."""
        return len(self._waiting)

    def add(self, item: T, size: int) -> "asyncio.Future[R]":
        """Queue an item of `size` bytes. Raises Overloaded if the limits are reached."""
        if len(self._waiting) >= self._bounds.items or self._bytes + size > self._bounds.size:
            raise Overloaded("too many writes are waiting for the database: try again in a moment")
        done: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._bytes += size
        self._waiting.append(Waiting(item, size, done))
        return done

    def take(self) -> list[Waiting[T, R]]:
        """Remove and return the next batch, in the order of arrival."""
        batch: list[Waiting[T, R]] = []
        size = 0
        while self._waiting and len(batch) < _MAX_ITEMS and size < _MAX_BYTES:
            batch.append(self._waiting.popleft())
            size += batch[-1].size
        return batch

    def resolve(self, batch: Sequence[Waiting[T, R]], outcomes: Sequence[R | Exception]) -> None:
        """Pass the outcomes to the callers; a cancelled caller is skipped."""
        for waiting, outcome in zip(batch, outcomes, strict=True):
            self._bytes -= waiting.size
            if waiting.done.done():
                continue
            if isinstance(outcome, Exception):
                waiting.done.set_exception(outcome)
            else:
                waiting.done.set_result(outcome)


class Batchers:
    """The batchers of one database, one for each `Work`."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._by_work: dict[Work[Any, Any], Batcher[Any, Any]] = {}

    def get(self, work: Work[T, R]) -> Batcher[T, R]:
        """Return the batcher of `work`, and create it first if necessary."""
        batcher = self._by_work.get(work)
        if batcher is None:
            batcher = self._by_work[work] = Batcher(work, self._bounds)
        return batcher


class Bisection(Generic[T, R]):
    """Bisects a batch that fails, so that an item whose write fails fails alone and the others are written.

    Iterate over the parts to write, and report each as `succeeded` or `failed` before the next; a failed part is split
    in two. At the end `outcomes` has a result or an error for each item, in order.
    """

    def __init__(self, items: Sequence[T]) -> None:
        self.outcomes: list[R | Exception] = []
        self._parts = [items] if items else []

    def __iter__(self) -> Iterator[Sequence[T]]:
        while self._parts:
            yield self._parts.pop()

    def succeeded(self, results: Sequence[R]) -> None:
        self.outcomes += results

    def failed(self, part: Sequence[T], error: Exception) -> None:
        """Record the error of a part that cannot be split. An outage concerns all its items and is not split."""
        if len(part) == 1 or isinstance(error, Unavailable):
            self.outcomes += [error] * len(part)
        else:
            middle = len(part) // 2
            self._parts += [part[middle:], part[:middle]]  # the last one is next
