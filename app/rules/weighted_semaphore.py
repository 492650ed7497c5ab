"""Room for so much at once, given out in the order of asking: how memory is bounded where work is not all alike."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


class WeightedSemaphore:
    """Who needs more than there is in all waits until the room is empty, and then has it alone."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.free = size
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def taken(self, units: int) -> AsyncGenerator[None]:
        units = min(units, self._size)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((units, turn))
        self._hand_out()
        try:
            await turn
            yield
        finally:
            if turn.done() and not turn.cancelled():
                self.free += units
            else:
                turn.cancel()
            self._hand_out()

    def _hand_out(self) -> None:
        """Let in whoever is first, while there is room for it."""
        while self._waiting and (self._waiting[0][1].done() or self._waiting[0][0] <= self.free):
            units, turn = self._waiting.popleft()
            if not turn.done():  # else it went away
                self.free -= units
                turn.set_result(None)
