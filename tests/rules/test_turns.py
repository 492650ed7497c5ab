"""The order of heavy work of each owner."""

import asyncio

from app.rules.turns import Turns


async def test_the_requests_of_an_owner_take_turns_in_their_order() -> None:
    turns, told = Turns(at_once=1), list[str]()

    async def work(name: str) -> None:
        async with turns.taken("a"):
            told.append(f"{name} begins")
            await asyncio.sleep(0)
            told.append(f"{name} ends")

    await asyncio.gather(work("first"), work("second"))

    assert told == ["first begins", "first ends", "second begins", "second ends"]


async def test_an_owner_does_not_wait_for_the_turns_of_another() -> None:
    turns = Turns(at_once=1)

    async with asyncio.timeout(30), turns.taken("a"), turns.taken("b"):
        pass


async def test_a_request_that_has_waited_long_enough_goes_on_without_a_turn() -> None:
    turns = Turns(at_once=1, patience_s=0)

    async with asyncio.timeout(30), turns.taken("a"), turns.taken("a"):
        pass


async def test_a_turn_comes_back_from_a_request_that_fails_or_is_cancelled() -> None:
    turns = Turns(at_once=1)

    async def wait() -> None:
        async with turns.taken("a"):
            raise AssertionError

    async with turns.taken("a"):
        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0)
        waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    failed = await asyncio.gather(wait(), return_exceptions=True)

    assert isinstance(failed[0], AssertionError)
    async with asyncio.timeout(30), turns.taken("a"):
        pass
