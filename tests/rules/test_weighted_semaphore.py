"""The semaphore bounds what runs at once, however many requests there are."""

import asyncio
from contextlib import suppress

import pytest

from app.errors import Overloaded
from app.rules.weighted_semaphore import WeightedSemaphore


class Guests:
    """Counts the units that are taken, and records the order of the grants."""

    def __init__(self, room: WeightedSemaphore) -> None:
        self.room = room
        self.inside = self.most = 0
        self.came: list[int] = []

    async def visit(self, units: int, leave: asyncio.Event | None = None) -> None:
        async with self.room.taken(units):
            self.came.append(units)
            self.inside += units
            self.most = max(self.most, self.inside)
            await (leave.wait() if leave else asyncio.sleep(0))
            self.inside -= units


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_no_more_units_are_granted_than_there_are() -> None:
    guests = Guests(WeightedSemaphore(10))
    await asyncio.gather(*(guests.visit(units) for units in [3, 4, 5, 6, 1] * 20))

    assert guests.most == 10


async def test_a_request_for_more_than_the_size_runs_alone() -> None:
    guests, leave = Guests(WeightedSemaphore(10)), asyncio.Event()
    visits = [asyncio.create_task(guests.visit(units, leave)) for units in (1, 99, 1)]
    await settle()
    before = list(guests.came)
    leave.set()
    await asyncio.gather(*visits)

    assert before == [1]
    assert guests.came == [1, 99, 1]


async def test_requests_are_granted_in_their_order() -> None:
    guests = Guests(WeightedSemaphore(3))
    await asyncio.gather(*(guests.visit(units) for units in (3, 2, 1, 3, 1)))

    assert guests.came == [3, 2, 1, 3, 1]


async def test_a_cancelled_request_does_not_block_the_others() -> None:
    room, leave = WeightedSemaphore(1), asyncio.Event()
    guests = Guests(room)
    inside, waiting, last = (asyncio.create_task(guests.visit(1, leave)) for _ in range(3))
    await settle()
    waiting.cancel()
    inside.cancel()
    await settle()
    leave.set()
    with suppress(asyncio.CancelledError):
        await asyncio.gather(inside, waiting, return_exceptions=True)
    await last

    assert guests.came == [1, 1]


async def test_a_request_that_is_cancelled_when_granted_returns_its_units() -> None:
    room, leave = WeightedSemaphore(1), asyncio.Event()
    guests = Guests(room)
    inside, waiting = (asyncio.create_task(guests.visit(1, leave)) for _ in range(2))
    await settle()
    leave.set()
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(inside, waiting, return_exceptions=True)

    async with asyncio.timeout(30), room.taken(1):
        pass


async def test_a_full_queue_refuses_at_once() -> None:
    room, leave = WeightedSemaphore(2), asyncio.Event()
    guests = Guests(room)
    tasks = [asyncio.create_task(guests.visit(2, leave)) for _ in range(3)]
    await settle()
    assert room.waiting == 4

    with pytest.raises(Overloaded):
        async with room.taken_in_time(1, max_waiting=3, seconds=60):
            pass
    leave.set()
    await asyncio.gather(*tasks)
    assert room.waiting == 0


async def test_a_wait_that_lasts_too_long_is_refused_and_takes_nothing() -> None:
    room = WeightedSemaphore(1)
    async with room.taken(1):
        with pytest.raises(Overloaded):
            async with room.taken_in_time(1, max_waiting=3, seconds=0):
                pass

    assert (room.free, room.waiting) == (1, 0)


async def test_the_time_limit_is_for_the_wait_alone() -> None:
    room = WeightedSemaphore(1)
    async with room.taken_in_time(1, max_waiting=0, seconds=0):
        await settle()
        assert room.free == 0

    assert room.free == 1
