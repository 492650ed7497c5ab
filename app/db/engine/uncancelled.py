"""Waits of a unit of work that nothing interrupts: half of a transaction must not be cancelled.

At the end of a process, asyncio cancels all tasks, and waits for them.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from typing import TypeVar

from sqlalchemy.util import await_only
from sqlalchemy.util.concurrency import in_greenlet

T = TypeVar("T")


def pause(seconds: float) -> None:
    """Wait; on the event loop, other tasks go on meanwhile. With 0 they go on for one iteration."""
    if not in_greenlet():
        time.sleep(seconds)
        return
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    loop.call_later(seconds, done.set_result, None)
    await_only(finished(done))


def in_thread(executor: Executor, work: Callable[[], T]) -> T:
    """Run `work` in a thread of the executor, and wait for it; if this is a thread already, run it here."""
    if not in_greenlet():
        return work()
    return await_only(finished(asyncio.get_running_loop().run_in_executor(executor, work)))


async def finished(done: "asyncio.Future[T]") -> T:
    """Return the result of a future, also if this task is cancelled before it is done."""
    while not done.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([done])
    return done.result()
