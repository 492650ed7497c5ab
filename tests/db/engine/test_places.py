import asyncio

import pytest

from app.db.engine.fair_queue import owner
from app.db.engine.places import Places
from app.errors import DatabaseUnavailable


def one_place(wait_s: float = 60.0) -> Places:
    return Places(1, wait_s, "full")


class Visitor:
    """Takes a place as this owner, and keeps it until `leave` is called."""

    def __init__(self, places: Places, name: str, *, takes_long: bool = False) -> None:
        self.inside = asyncio.Event()
        self._left = asyncio.Event()
        self._places, self._name, self._takes_long = places, name, takes_long
        self.task = asyncio.create_task(self._visit())

    async def _visit(self) -> None:
        owner.set(self._name)
        async with self._places.taken(takes_long=self._takes_long):
            self.inside.set()
            await self._left.wait()

    async def leave(self) -> None:
        self._left.set()
        await self.task


async def test_owners_that_wait_get_places_in_turn() -> None:
    places = one_place()
    first = Visitor(places, "a")
    await first.inside.wait()
    waiting = {name: Visitor(places, name[0]) for name in ("a1", "a2", "a3", "b1")}
    await asyncio.sleep(0)
    order, current = [], first
    for _ in range(4):
        await current.leave()
        inside = [name for name, visitor in waiting.items() if visitor.inside.is_set()]
        while not (new := [name for name in inside if name not in order]):
            await asyncio.sleep(0)
            inside = [name for name, visitor in waiting.items() if visitor.inside.is_set()]
        order += new
        current = waiting[new[0]]
    await current.leave()

    assert order == ["a1", "b1", "a2", "a3"]


async def test_whoever_waits_too_long_gets_an_error_and_takes_no_place() -> None:
    places = one_place(wait_s=0.01)
    async with places.taken():
        with pytest.raises(DatabaseUnavailable, match="full"):
            await Visitor(places, "b").task
    async with places.taken():
        pass


async def test_a_place_that_is_given_to_a_task_as_it_is_cancelled_is_given_to_the_next() -> None:
    places = one_place()
    async with places.taken():
        cancelled, next_one = Visitor(places, "a"), Visitor(places, "b")
        await asyncio.sleep(0)
    cancelled.task.cancel()  # it has been given the place and has not run since
    await next_one.inside.wait()
    await next_one.leave()

    assert cancelled.task.cancelled()
    assert not cancelled.inside.is_set()


async def test_a_task_that_is_cancelled_while_it_waits_is_passed_over() -> None:
    places = one_place()
    async with places.taken():
        cancelled, next_one = Visitor(places, "a"), Visitor(places, "b")
        await asyncio.sleep(0)
        cancelled.task.cancel()
        await asyncio.wait({cancelled.task})
    await next_one.inside.wait()
    await next_one.leave()

    assert not cancelled.inside.is_set()


async def test_those_that_give_up_use_no_turn_of_their_owner() -> None:
    places = one_place()
    async with places.taken():
        gone = [Visitor(places, "a") for _ in range(5)]
        await asyncio.sleep(0)
        others = [Visitor(places, "b") for _ in range(2)]
        last = Visitor(places, "a")
        await asyncio.sleep(0)
        for visitor in gone:
            visitor.task.cancel()
        await asyncio.wait({visitor.task for visitor in gone})
    await asyncio.wait_for(last.inside.wait(), 60)  # before those of the other owner

    assert not any(other.inside.is_set() for other in others)
    await last.leave()
    for other in others:
        await other.inside.wait()
        await other.leave()


async def test_short_visits_get_only_some_of_the_places_and_long_ones_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.db.engine.places.SHORT_S", 600)
    places = Places(4, 60.0, "full", most_short=lambda: 2)
    short = [Visitor(places, "a") for _ in range(3)]
    await short[1].inside.wait()
    was_busy = places.is_busy
    long = [Visitor(places, "a", takes_long=True) for _ in range(2)]
    await long[1].inside.wait()
    inside = [visitor.inside.is_set() for visitor in (*short, *long)]
    await short[0].leave()
    await short[2].inside.wait()
    for visitor in (*short[1:], *long):
        await visitor.leave()

    assert was_busy
    assert inside == [True, True, False, True, True]
    assert not places.is_busy


async def test_a_long_visit_that_waits_gets_the_first_free_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.db.engine.places.SHORT_S", 600)
    places = Places(2, 60.0, "full", most_short=lambda: 1)
    short, first_long = Visitor(places, "a"), Visitor(places, "a", takes_long=True)
    await first_long.inside.wait()
    waiting, long = Visitor(places, "a"), Visitor(places, "a", takes_long=True)
    await asyncio.sleep(0)
    await first_long.leave()
    await long.inside.wait()
    was_inside = waiting.inside.is_set()
    await short.leave()
    await waiting.inside.wait()
    await waiting.leave()
    await long.leave()

    assert not was_inside


async def test_a_visit_that_lasts_too_long_to_be_short_makes_room_for_a_short_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.db.engine.places.SHORT_S", 0.01)
    places = Places(3, 60.0, "full", most_short=lambda: 1)
    slow, next_one, last = (Visitor(places, "a") for _ in range(3))
    await slow.inside.wait()
    async with asyncio.timeout(60):
        await next_one.inside.wait()
    await next_one.leave()
    await last.inside.wait()
    await last.leave()
    await slow.leave()


async def test_a_short_visit_does_not_pass_those_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.db.engine.places.SHORT_S", 600)
    places = Places(2, 60.0, "full", most_short=lambda: 1)
    inside, waiting = Visitor(places, "a"), Visitor(places, "a")
    await inside.inside.wait()
    await asyncio.sleep(0)
    await inside.leave()
    late = Visitor(places, "a")
    await waiting.inside.wait()
    await asyncio.sleep(0)

    assert not late.inside.is_set()
    await waiting.leave()
    await late.inside.wait()
    await late.leave()
