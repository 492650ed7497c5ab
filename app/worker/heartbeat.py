"""What a worker does beside its jobs, for as long as it lives: say so, and tend what lies aside on its machine."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from app import jobs
from app.collect import tend
from app.jobs import Job
from app.resources import Resources
from app.telemetry import logs

_BEAT_S = jobs.LEASE.total_seconds() / 6
_TEND_S = 60.0

log = logs.get("heart")


@asynccontextmanager
async def heartbeats(
    use: Resources, in_hand: Mapping[asyncio.Task[None], Job], every_s: float = _BEAT_S
) -> AsyncGenerator[None]:
    """Within it, the jobs in hand are not taken for lost, and no image is forgotten that only this machine has."""

    async def beat() -> None:
        if in_hand:
            await use.db.write(lambda connection: jobs.heartbeat(connection, list(in_hand.values())))

    duties = [
        asyncio.create_task(_again_and_again(beat, every_s)),
        asyncio.create_task(_again_and_again(lambda: tend(use), _TEND_S)),
    ]
    try:
        yield
    finally:
        for duty in duties:
            duty.cancel()
        await asyncio.gather(*duties, return_exceptions=True)


async def _again_and_again(duty: Callable[[], Awaitable[None]], seconds: float) -> None:
    while True:
        try:
            await duty()
        except Exception as error:  # noqa: BLE001 - the next round may do better; a duty that ends is never done again
            log.warning("background_loop_failed", error=type(error).__name__)
        await asyncio.sleep(seconds)
