"""What each owner may hold of a resource at once."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from app.errors import LimitExceeded
from app.rules.shares import Shares


async def test_an_owner_at_its_limit_is_refused_and_another_is_not() -> None:
    shares = Shares("streams", "streams")
    async with AsyncExitStack() as held:
        await held.enter_async_context(shares.taken("a", 2, units=2))
        with pytest.raises(LimitExceeded) as refusal:
            await held.enter_async_context(shares.taken("a", 2))
        await held.enter_async_context(shares.taken("b", 2))
        await held.enter_async_context(shares.taken("a", None))
        assert (refusal.value.limit, shares.held("a"), shares.held("b")) == ("streams", 3, 1)

    assert (shares.held("a"), shares.held("b")) == (0, 0)


async def test_a_request_that_may_wait_gets_what_another_releases() -> None:
    shares, order = Shares("uploads", "uploads"), []

    async def use(name: str) -> None:
        async with shares.taken("a", 1, wait_s=30):
            order.append(name)
            await asyncio.sleep(0)

    await asyncio.gather(*(use(name) for name in "xyz"))

    assert sorted(order) == ["x", "y", "z"]
    assert shares.held("a") == 0


async def test_a_wait_that_is_cancelled_or_over_leaves_nothing_behind() -> None:
    shares = Shares("uploads", "uploads")
    async with shares.taken("a", 1):
        waiting = asyncio.create_task(take(shares))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with pytest.raises(LimitExceeded):
            await take(shares, wait_s=0.001)

    assert vars(shares)["_held"] == {}
    assert vars(shares)["_waiting"] == {}


async def take(shares: Shares, wait_s: float = 30) -> None:
    async with shares.taken("a", 1, wait_s=wait_s):
        pass
