"""Turns at work that occupies a processor: each owner has few at once, and the rest of the process stays quick."""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from weakref import WeakValueDictionary

from app.rules.weighted_semaphore import WeightedSemaphore

_AT_ONCE = max(1, (os.cpu_count() or 1) // 2)
_PATIENCE_S = 10.0


class Turns:
    """Gives out the turns of each owner in the order of the requests. Not thread-safe.

    Turns order the work and refuse none of it: a request that has waited for `patience_s` goes on without one.
    """

    def __init__(self, at_once: int = _AT_ONCE, patience_s: float = _PATIENCE_S) -> None:
        self._at_once = at_once
        self._patience_s = patience_s
        self._of: WeakValueDictionary[str, WeightedSemaphore] = WeakValueDictionary()  # owners that wait or work

    @asynccontextmanager
    async def taken(self, owner: str) -> AsyncGenerator[None]:
        """Wait for a turn of this owner, and keep it for the block. It must not be taken again in the block."""
        turns = self._of.setdefault(owner, WeightedSemaphore(self._at_once))
        async with AsyncExitStack() as stack:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._patience_s):
                    await stack.enter_async_context(turns.taken(1))
            yield
