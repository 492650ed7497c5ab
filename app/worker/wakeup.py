"""The wakeup of an idle worker: a commit enqueued a job, a job ended, or the service stops.

It only signals that there may be work. The worker then reads the database, so a lost signal loses no job.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

from app.rules.backoff import Backoff

# The pause between checks that find nothing while notifications keep arriving: a burst of callbacks notifies with each
# commit, and each check is a transaction. Only a job that is enqueued during such a burst waits for the pause.
_PAUSE = Backoff(first=timedelta(milliseconds=2), longest=timedelta(milliseconds=20))


class Wakeup:
    """The wakeup of one worker. Must be created on the worker's event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._notified = asyncio.Event()
        self._empty_checks = 0  # consecutive checks that found nothing, in quick succession

    def notify(self) -> None:
        """Wake the worker. Thread-safe. If the flag is set, the next check has not started and will see this job."""
        if not self._notified.is_set():
            with suppress(RuntimeError):  # the event loop is closed, and this thread made one of the last commits
                self._loop.call_soon_threadsafe(self._notified.set)

    def clear(self) -> None:
        """Clear the flag before a check: a notification after this point may be about a job that the check misses."""
        self._notified.clear()

    @asynccontextmanager
    async def notified_by(self, event: asyncio.Event) -> AsyncGenerator[None]:
        """Inside the block, notify when `event` is set."""

        async def forward() -> None:
            await event.wait()
            self._notified.set()

        forwarding = asyncio.create_task(forward())
        try:
            yield
        finally:
            forwarding.cancel()

    def found_jobs(self) -> None:
        """Note that the latest check found jobs: no pause follows it."""
        self._empty_checks = 0

    async def wait(self, seconds: float) -> None:
        """Wait for a notification, `seconds` at most."""
        started = time.monotonic()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._notified.wait()
        waited_s, pause_s = time.monotonic() - started, self._pause_s()
        self._empty_checks = self._empty_checks + 1 if waited_s <= _PAUSE.longest.total_seconds() else 0
        await asyncio.sleep(max(0, pause_s - waited_s))

    def _pause_s(self) -> float:
        return _PAUSE.wait(self._empty_checks).total_seconds() if self._empty_checks else 0
