"""What calls a worker to look for jobs: a commit that left one, a job that ended, the service that stops.

Nothing is lost by it: it says that there may be something, and whoever is called looks in the database.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

from app.rules.backoff import Backoff

# Between looks that find nothing while it goes on ringing: a storm of callbacks rings with each commit, and each look
# is a transaction. A job that is left in such a storm waits so much longer; one that is left in peace does not wait.
_BREATH = Backoff(first=timedelta(milliseconds=2), longest=timedelta(milliseconds=20))


class Wakeup:
    """One for each worker, made on its event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._rung = asyncio.Event()
        self._in_vain = 0  # looks that found nothing, one right after the other

    def notify(self) -> None:
        """From any thread. Who finds it rung already came before the look that silences it, and is seen by that."""
        if not self._rung.is_set():
            with suppress(RuntimeError):  # the loop is closed: another thread committed for the last time
                self._loop.call_soon_threadsafe(self._rung.set)

    def clear(self) -> None:
        """Before a look: what rings from now on may be news."""
        self._rung.clear()

    @asynccontextmanager
    async def notified_by(self, event: asyncio.Event) -> AsyncGenerator[None]:
        """Within it, the bell rings when the event is set."""

        async def wait() -> None:
            await event.wait()
            self._rung.set()

        waiting = asyncio.create_task(wait())
        try:
            yield
        finally:
            waiting.cancel()

    async def wait(self, seconds: float) -> None:
        """After a look: until it rings or the time is over; 0 when something was found, and the next look is free."""
        if not seconds:
            self._in_vain = 0
            return
        began = time.monotonic()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._rung.wait()
        rested_s, breath_s = time.monotonic() - began, self._breath_s()
        self._in_vain = self._in_vain + 1 if rested_s <= _BREATH.longest.total_seconds() else 0
        await asyncio.sleep(max(0, breath_s - rested_s))

    def _breath_s(self) -> float:
        return _BREATH.wait(self._in_vain).total_seconds() if self._in_vain else 0
