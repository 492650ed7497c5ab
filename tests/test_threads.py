"""Threads for long work give way to the others."""

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.threads import give_way


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a priority for each thread")
def test_a_thread_that_gives_way_has_a_lower_priority_and_other_threads_keep_theirs() -> None:
    before = niceness()
    with ThreadPoolExecutor(1, initializer=give_way) as pool:
        lowered = pool.submit(niceness).result()
    with ThreadPoolExecutor(1) as pool:
        usual = pool.submit(niceness).result()

    assert (lowered, usual, niceness()) == (min(19, before + 10), before, before)


def test_a_thread_at_the_lowest_priority_can_give_way() -> None:
    def give_way_often() -> None:
        for _ in range(3):
            give_way()

    with ThreadPoolExecutor(1, initializer=give_way_often) as pool:
        assert pool.submit(str).result() == ""
