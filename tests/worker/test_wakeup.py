"""An idle worker wakes at once; in a burst of commits it checks only now and then."""

import asyncio
import time
from collections.abc import Coroutine
from threading import Thread
from typing import Any

from app.worker.wakeup import Wakeup

LONG = 60.0
BOUND = 30.0


async def test_a_notification_is_thread_safe() -> None:
    wakeup = Wakeup()
    Thread(target=wakeup.notify).start()

    async with asyncio.timeout(BOUND):
        await wakeup.wait(LONG)


async def test_a_stopping_service_wakes_the_worker() -> None:
    wakeup, stopping = Wakeup(), asyncio.Event()
    async with asyncio.timeout(BOUND), wakeup.notified_by(stopping):
        stopping.set()
        await wakeup.wait(LONG)


async def test_a_notification_during_a_check_is_not_lost() -> None:
    wakeup = Wakeup()
    wakeup.clear()
    wakeup.notify()
    await asyncio.sleep(0)

    async with asyncio.timeout(BOUND):
        await wakeup.wait(LONG)


async def test_a_burst_causes_few_checks() -> None:
    """A pause follows each empty check, which no notification ends: 2 ms, doubled each time up to 20 ms."""
    wakeup, looks = Wakeup(), 12

    async def storm() -> None:
        while True:
            wakeup.notify()
            await asyncio.sleep(0)

    ringing = asyncio.create_task(storm())
    began = time.monotonic()
    async with asyncio.timeout(BOUND):
        for _ in range(looks):
            wakeup.clear()
            await wakeup.wait(LONG)
    took = time.monotonic() - began
    ringing.cancel()

    assert took > 0.05  # however fast the machine; nothing is said of a slow one


async def is_over_at_once(resting: Coroutine[Any, Any, None]) -> bool:
    """Whether it ends within a few iterations of the event loop, before any timer."""
    wait = asyncio.create_task(resting)
    for _ in range(5):
        await asyncio.sleep(0)
    is_over = wait.done()
    await wait
    return is_over


async def test_after_a_check_that_found_jobs_the_next_is_immediate() -> None:
    wakeup = Wakeup()
    for _ in range(10):
        wakeup.clear()
        wakeup.notify()
        await wakeup.wait(LONG)
    wakeup.clear()
    wakeup.found_jobs()
    wakeup.notify()
    await asyncio.sleep(0)

    assert await is_over_at_once(wakeup.wait(LONG))
