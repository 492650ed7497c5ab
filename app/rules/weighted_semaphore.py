"""A fair semaphore for work of unequal size. It bounds, for example, the memory of concurrent image decoding."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

from app.errors import Overloaded


class WeightedSemaphore:
    """A semaphore of `size` units, granted in the order of the requests.

    A request for more than `size` units waits until all are free and then has them exclusively.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self.free = size
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def waiting(self) -> int:
        """The units of the requests that wait."""
        return sum(units for units, granted in self._waiting if not granted.done())

    @asynccontextmanager
    async def taken(self, units: int) -> AsyncGenerator[None]:
        """Wait for `units` units and hold them for the duration of the block."""
        units = min(units, self._size)
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((units, granted))
        self._grant()
        try:
            await granted
            yield
        finally:
            if granted.done() and not granted.cancelled():
                self.free += units
            else:
                granted.cancel()
            self._grant()

    @asynccontextmanager
    async def taken_in_time(self, units: int, *, max_waiting: int, seconds: float) -> AsyncGenerator[None]:
        """As `taken`, with a bounded queue.

        Raises Overloaded at once if more than `max_waiting` units wait already, and after a wait of `seconds`.
        """
        if self.waiting > max_waiting:
            raise Overloaded("too many requests are waiting")
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(seconds):
                    await stack.enter_async_context(self.taken(units))
            except TimeoutError as error:
                raise Overloaded("too many requests are waiting") from error
            yield

    def _grant(self) -> None:
        """Grant waiting requests in their order while enough units are free."""
        while self._waiting and (self._waiting[0][1].done() or self._waiting[0][0] <= self.free):
            units, granted = self._waiting.popleft()
            if not granted.done():  # a done future here was cancelled
                self.free -= units
                granted.set_result(None)
