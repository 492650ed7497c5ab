"""The threads that decode results.

They are few and give way, because a thread of a request that wakes up waits for several milliseconds if every processor
decodes, and each read on SQLite and each commit wakes one.
"""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple

from app.threads import give_way

_THREADS = ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // 2), "results", initializer=give_way)

A = TypeVarTuple("A")
T = TypeVar("T")


async def in_result_thread(work: Callable[[*A], T], *args: *A) -> T:
    """Run `work` in one of the threads, when one is free. The caller must hold its pixels of `Resources.decoding`."""
    return await asyncio.get_running_loop().run_in_executor(_THREADS, work, *args)
