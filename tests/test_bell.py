"""A worker is called at once in peace, and not for each commit of a storm."""

import asyncio
import time
from contextlib import suppress
from threading import Thread

from app.bell import Bell

LONG = 5.0


async def looks_within(bell: Bell, seconds: float) -> int:
    """How often somebody looks in vain who looks whenever the bell lets him."""
    looks = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while True:
                bell.silence()
                looks += 1
                await bell.rest(LONG)
    return looks


async def test_it_is_heard_from_any_thread() -> None:
    bell = Bell()
    Thread(target=bell.ring).start()

    async with asyncio.timeout(1):
        await bell.rest(LONG)


async def test_it_rings_when_the_service_stops() -> None:
    bell, stopping = Bell(), asyncio.Event()
    async with asyncio.timeout(1), bell.rung_by(stopping):
        stopping.set()
        await bell.rest(LONG)


async def test_what_rings_while_somebody_looks_is_not_lost() -> None:
    bell = Bell()
    bell.silence()
    bell.ring()
    await asyncio.sleep(0)

    async with asyncio.timeout(1):
        await bell.rest(LONG)


async def test_a_storm_is_looked_at_now_and_then() -> None:
    bell = Bell()

    async def storm() -> None:
        while True:
            bell.ring()
            await asyncio.sleep(0)

    ringing = asyncio.create_task(storm())
    looks = await looks_within(bell, 0.3)
    ringing.cancel()

    assert 2 <= looks < 40  # one each 20 ms, after the first few


async def test_after_a_look_that_found_something_the_next_is_free() -> None:
    bell = Bell()
    for _ in range(20):
        bell.silence()
        bell.ring()
        await bell.rest(LONG)
    began = time.monotonic()
    for _ in range(20):
        bell.silence()
        await bell.rest(0)
        bell.ring()
        await bell.rest(LONG)

    assert time.monotonic() - began < 0.2
