"""The two heartbeats of a worker, and the regular check of its spool.

The lease heartbeat, in the database, keeps other workers from claiming the jobs that this one runs. The liveness file
shows a health check of the process that the worker can run jobs.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from app import jobs
from app.collect import store_spooled
from app.db.migrations.revision import is_current
from app.errors import Unavailable
from app.jobs import Job
from app.resources import Connections, Resources
from app.telemetry import logs

_LEASE_HEARTBEAT_S = jobs.LEASE.total_seconds() / 6
_LIVENESS_FILE_S = 5.0
_SPOOL_S = 60.0

log = logs.get("heartbeat")


@dataclass
class Rounds:
    """How often the worker has looked for jobs, and claimed those that were due."""

    ended: int = 0


@asynccontextmanager
async def background_loops(
    use: Resources, running_jobs: Callable[[], Collection[Job]], every_s: float = _LEASE_HEARTBEAT_S
) -> AsyncGenerator[None]:
    """Inside the block, send a lease heartbeat for `running_jobs()` every `every_s` seconds, and check the spool
    each minute.
    """

    async def renew_leases() -> None:
        running = list(running_jobs())
        for locked in await use.db.write(jobs.heartbeat, running) if running else []:
            await use.db.write(jobs.heartbeat_of_locked, locked)

    loops = [
        asyncio.create_task(_repeat(renew_leases, every_s)),
        asyncio.create_task(_repeat(lambda: store_spooled(use), _SPOOL_S)),
    ]
    try:
        yield
    finally:
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)


async def _repeat(call: Callable[[], Awaitable[None]], seconds: float) -> None:
    while True:
        try:
            await call()
        except Exception as error:  # noqa: BLE001 - the loop must survive every error, and the next call may succeed
            log.warning("background_loop_failed", error=type(error).__name__)
        await asyncio.sleep(seconds)


async def touch_liveness_file(use: Connections, file: Path, rounds: Rounds, every_s: float = _LIVENESS_FILE_S) -> None:
    """Touch `file` regularly while the worker's rounds end and it can run jobs. Runs until it is cancelled."""
    touched_at = 0
    while True:
        ended = rounds.ended
        if ended > touched_at and await can_work(use):
            try:
                await asyncio.to_thread(file.touch)
                touched_at = ended
            except OSError as error:
                # Jobs continue; a health check of the file fails.
                log.warning("heartbeat_not_written", error=error.strerror)
        await asyncio.sleep(every_s)


async def can_work(use: Connections) -> bool:
    """Whether the database answers and this version can use its schema."""
    try:
        return await use.db.read(is_current)
    except Unavailable:
        return False
