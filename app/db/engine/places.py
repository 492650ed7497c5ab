"""Places for transactions: a bounded number at once, given to those that wait, whose owners take turns."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from app.db.engine.fair_queue import FairQueue, owner
from app.errors import DatabaseUnavailable


class Places:
    """`count` places, each waited for at most `wait_s`; `too_many` is the text of the error. Not thread-safe."""

    def __init__(self, count: int, wait_s: float, too_many: str) -> None:
        self._free = count
        self._wait_s = wait_s
        self._too_many = too_many
        self._waiting: FairQueue[asyncio.Future[None]] = FairQueue()

    @asynccontextmanager
    async def taken(self) -> AsyncGenerator[None]:
        """Hold a place for the block. Raises DatabaseUnavailable."""
        if self._free:
            self._free -= 1
        else:
            await self._wait()
        try:
            yield
        finally:
            self._give()

    async def _wait(self) -> None:
        given: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        whose = owner.get()
        self._waiting.add(given, whose)
        try:
            async with asyncio.timeout(self._wait_s):
                await given
        except BaseException as error:
            if given.done() and not given.cancelled():  # it was given at the same moment
                self._give()
            else:
                self._waiting.remove(given, whose)  # otherwise it would use a turn of its owner
            if isinstance(error, TimeoutError):
                raise DatabaseUnavailable(self._too_many) from error
            raise

    def _give(self) -> None:
        """Give a place to the next one that waits."""
        while self._waiting:
            given, _ = self._waiting.take()
            if not given.done():  # one that gives up at the same moment is cancelled
                given.set_result(None)
                return
        self._free += 1
