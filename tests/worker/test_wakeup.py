"""A worker is called at once in peace, and not for each commit of a storm."""

import asyncio
import time
from collections.abc import Coroutine
from threading import Thread
from typing import Any

from app.worker.wakeup import Bell

LONG = 60.0
BOUND = 30.0


async def test_it_is_heard_from_any_thread() -> None:
    bell = Bell()
    Thread(target=bell.ring).start()

    async with asyncio.timeout(BOUND):
        await bell.rest(LONG)


async def test_it_rings_when_the_service_stops() -> None:
    bell, stopping = Bell(), asyncio.Event()
    async with asyncio.timeout(BOUND), bell.rung_by(stopping):
        stopping.set()
        await bell.rest(LONG)


async def test_what_rings_while_somebody_looks_is_not_lost() -> None:
    bell = Bell()
    bell.silence()
    bell.ring()
    await asyncio.sleep(0)

    async with asyncio.timeout(BOUND):
        await bell.rest(LONG)


async def test_a_storm_is_looked_at_now_and_then() -> None:
    """Each look is followed by a rest that no ringing ends: of 2 ms and twice as much each time, up to 20 ms."""
    bell, looks = Bell(), 12

    async def storm() -> None:
        while True:
            bell.ring()
            await asyncio.sleep(0)

    ringing = asyncio.create_task(storm())
    began = time.monotonic()
    async with asyncio.timeout(BOUND):
        for _ in range(looks):
            bell.silence()
            await bell.rest(LONG)
    took = time.monotonic() - began
    ringing.cancel()

    assert took > 0.05  # however fast the machine; nothing is said of a slow one


async def is_over_at_once(resting: Coroutine[Any, Any, None]) -> bool:
    """Whether it needs no more than a few rounds of the event loop, which are over before any timer."""
    rest = asyncio.create_task(resting)
    for _ in range(5):
        await asyncio.sleep(0)
    is_over = rest.done()
    await rest
    return is_over


async def test_after_a_look_that_found_something_the_next_is_free() -> None:
    bell = Bell()
    for _ in range(10):
        bell.silence()
        bell.ring()
        await bell.rest(LONG)
    bell.silence()
    await bell.rest(0)
    bell.ring()
    await asyncio.sleep(0)

    assert await is_over_at_once(bell.rest(LONG))
