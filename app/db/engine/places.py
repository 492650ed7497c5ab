"""Places for transactions: a bounded number at once, given to those that wait, whose owners take turns."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from app.db.engine.fair_queue import FairQueue, owner
from app.errors import DatabaseUnavailable

SHORT_S = 1.0  # a visit that lasts longer does not wait for the event loop but, for example, for a lock


@dataclass(eq=False, slots=True)
class _Visit:
    """One use of a place."""

    takes_long: bool
    began: float = 0.0


class Places:
    """`count` places, each waited for at most `wait_s`; `too_many` is the text of the error. Not thread-safe.

    `most_short` returns how many short visits may have a place at once. A visit is short if it has not been declared to
    take long and has had its place for less than a second.
    """

    def __init__(
        self,
        count: int,
        wait_s: float,
        too_many: str,
        most_short: Callable[[], int] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._count = count
        self._wait_s = wait_s
        self._too_many = too_many
        self._most_short = most_short
        self._monotonic = monotonic
        self._inside: set[_Visit] = set()
        self._waiting: FairQueue[tuple[_Visit, asyncio.Future[None]]] = FairQueue()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_full(self) -> bool:
        """Whether visits wait for a place."""
        return bool(self._waiting)

    @asynccontextmanager
    async def taken(self, *, takes_long: bool = False) -> AsyncGenerator[None]:
        """Hold a place for the block. Raises DatabaseUnavailable."""
        visit = _Visit(takes_long)
        if self._has_room(takes_long=takes_long) and (takes_long or not self._waiting):
            self._enter(visit)
        else:
            await self._wait(visit)
        try:
            yield
        finally:
            self._leave(visit)

    def _enter(self, visit: _Visit) -> None:
        visit.began = self._monotonic()
        self._inside.add(visit)

    def _leave(self, visit: _Visit) -> None:
        self._inside.remove(visit)
        self._fill()

    def _has_room(self, *, takes_long: bool = False) -> bool:
        if len(self._inside) >= self._count:
            return False
        most_short = self._count if self._most_short is None or takes_long else self._most_short()
        return len(self._inside) < most_short or self._short() < most_short

    def _short(self) -> int:
        since = self._monotonic() - SHORT_S
        return sum(not visit.takes_long and visit.began > since for visit in self._inside)

    async def _wait(self, visit: _Visit) -> None:
        given: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        whose, waiting = owner.get(), (visit, given)
        self._waiting.add(waiting, whose)
        self._look_again()
        try:
            async with asyncio.timeout(self._wait_s):
                await given
        except BaseException as error:
            if given.done() and not given.cancelled():  # it was given at the same moment
                self._leave(visit)
            else:
                self._waiting.remove(waiting, whose)  # otherwise it would use a turn of its owner
            if isinstance(error, TimeoutError):
                raise DatabaseUnavailable(self._too_many) from error
            raise

    def _fill(self) -> None:
        """Give the free places to the next ones that wait."""
        while self._waiting and self._has_room():
            (visit, given), _ = self._waiting.take()
            if not given.done():  # one that gives up at the same moment is cancelled
                self._enter(visit)
                given.set_result(None)

    def _look_again(self) -> None:
        """Fill the places later too: those in use may turn out not to be short."""
        if self._timer is None and self._most_short is not None:
            self._timer = asyncio.get_running_loop().call_later(SHORT_S, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._fill()
        if self._waiting:
            self._look_again()
