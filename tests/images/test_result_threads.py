"""Results are decoded by few threads, which give way to the others."""

import asyncio
import os
import sys
import threading
import time

import pytest

from app.images.result_threads import in_result_thread


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a priority for each thread")
async def test_a_result_is_decoded_with_a_lower_priority() -> None:
    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    assert await in_result_thread(niceness) > niceness()


async def test_at_most_half_of_the_processors_decode_results_at_once() -> None:
    under_way: list[int] = []
    most = 0

    def work(number: int) -> int:
        nonlocal most
        under_way.append(number)
        most = max(most, len(under_way))
        time.sleep(0.001)
        under_way.remove(number)
        return number

    done = await asyncio.gather(*(in_result_thread(work, number) for number in range(50)))

    assert done == list(range(50))
    assert most <= max(1, (os.cpu_count() or 1) // 2)
