"""Places for transactions: a bounded number at once, given to those that wait, whose owners take turns."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from app.db.engine.fair_queue import FairQueue, owner
from app.errors import DatabaseUnavailable

SHORT_S = 0.2  # a visit that lasts longer does not wait for the event loop but, for example, for a lock


@dataclass(eq=False, slots=True)
class _Visit:
    """One use of a place."""

    takes_long: bool
    began: float = 0.0


class Places:
    """`count` places, each waited for at most `wait_s`; `too_many` is the text of the error. Not thread-safe.

    `most_short` returns how many short visits may have a place at once. A visit is short if it has not been declared to
    take long and has had its place for less than `SHORT_S`.
    """

    def __init__(
        self,
        count: int,
        wait_s: float,
        too_many: str,
        most_short: Callable[[], int] | None = None,
    ) -> None:
        self._count = count
        self._wait_s = wait_s
        self._too_many = too_many
        self._most_short = most_short
        self._inside: set[_Visit] = set()
        self._waiting: FairQueue[tuple[_Visit, asyncio.Future[None]]] = FairQueue()  # of short visits
        self._waiting_long: FairQueue[tuple[_Visit, asyncio.Future[None]]] = FairQueue()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_busy(self) -> bool:
        """Whether visits wait for a place."""
        return bool(self._waiting or self._waiting_long)

    @asynccontextmanager
    async def taken(self, *, takes_long: bool = False) -> AsyncGenerator[None]:
        """Hold a place for the block. Raises DatabaseUnavailable."""
        visit = _Visit(takes_long)
        if not self._queue_of(visit) and self._has_room(takes_long=takes_long):
            self._enter(visit)
        else:
            await self._wait(visit)
        try:
            yield
        finally:
            self._leave(visit)

    def _queue_of(self, visit: _Visit) -> "FairQueue[tuple[_Visit, asyncio.Future[None]]]":
        return self._waiting_long if visit.takes_long else self._waiting

    def _enter(self, visit: _Visit) -> None:
        visit.began = time.monotonic()
        self._inside.add(visit)

    def _leave(self, visit: _Visit) -> None:
        self._inside.remove(visit)
        self._fill()

    def _has_room(self, *, takes_long: bool) -> bool:
        if len(self._inside) >= self._count:
            return False
        if takes_long or self._most_short is None:
            return True
        most_short = self._most_short()
        return len(self._inside) < most_short or len(self._short()) < most_short

    def _short(self) -> list[_Visit]:
        since = time.monotonic() - SHORT_S
        return [visit for visit in self._inside if not visit.takes_long and visit.began > since]

    async def _wait(self, visit: _Visit) -> None:
        given: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        whose, waiting = owner.get(), (visit, given)
        queue = self._queue_of(visit)
        queue.add(waiting, whose)
        self._look_again()
        try:
            async with asyncio.timeout(self._wait_s):
                await given
        except BaseException as error:
            if given.done() and not given.cancelled():  # it was given at the same moment
                self._leave(visit)
            else:
                queue.remove(waiting, whose)  # otherwise it would use a turn of its owner
            if isinstance(error, TimeoutError):
                raise DatabaseUnavailable(self._too_many) from error
            raise

    def _fill(self) -> None:
        """Give the free places to the next ones that wait."""
        for takes_long, queue in ((True, self._waiting_long), (False, self._waiting)):
            while queue and self._has_room(takes_long=takes_long):
                (visit, given), _ = queue.take()
                if not given.done():  # one that gives up at the same moment is cancelled
                    self._enter(visit)
                    given.set_result(None)
        if self._waiting:
            self._look_again()

    def _look_again(self) -> None:
        """Fill the places later too, when the oldest short visit is no longer short."""
        if self._timer is None and (short := self._short()):
            delay = min(visit.began for visit in short) + SHORT_S - time.monotonic()
            self._timer = asyncio.get_running_loop().call_later(max(0, delay), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._fill()
