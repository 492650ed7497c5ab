"""The background loops of a worker: renew the leases of its jobs, and process the images in its spool."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from app import jobs
from app.collect import tend
from app.jobs import Job
from app.resources import Resources
from app.telemetry import logs

_HEARTBEAT_S = jobs.LEASE.total_seconds() / 6
_SPOOL_S = 60.0

log = logs.get("heartbeat")


@asynccontextmanager
async def heartbeats(
    use: Resources, in_hand: Mapping[asyncio.Task[None], Job], every_s: float = _HEARTBEAT_S
) -> AsyncGenerator[None]:
    """Inside the block, renew the leases of the jobs `in_hand` every `every_s` seconds, and process the spool each
    minute.
    """

    async def renew_leases() -> None:
        if in_hand:
            await use.db.write(lambda connection: jobs.heartbeat(connection, list(in_hand.values())))

    loops = [
        asyncio.create_task(_repeat(renew_leases, every_s)),
        asyncio.create_task(_repeat(lambda: tend(use), _SPOOL_S)),
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
