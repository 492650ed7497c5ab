"""How often each part of a task waits for PostgreSQL, in all and while it keeps the account's row locked.

docs/performance.md states the figures. They bound how many tasks a second a distant database allows: the tasks of an
account wait for its row one after the other.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from sqlalchemy import event

from app.db.engine.database import as_postgres
from tests.calling import small
from tests.pictures import in_base64, picture
from tests.postgres_proxy import Proxy, proxy_to
from tests.workers import OneByOneWorker
from tests.world import World, open_world

WARM_UP = 3  # tasks after which each statement is prepared
TASKS = 3  # of which the least counts: what the process does at intervals falls into some of them
SLOTS = 24


class Waits(NamedTuple):
    """Round trips: all of them, and those from the lock of the account's row to the end of its transaction."""

    all: int
    locked: int


MOST = {
    "post": Waits(23, 6),
    "submission": Waits(20, 0),
    "callback": Waits(10, 3),
    "image": Waits(19, 0),
}
FOR_AN_IMAGE = 9  # round trips beside those of a post without one
IMAGE = in_base64(picture(64, 64))


@dataclass
class Distance:
    """A world whose round trips to PostgreSQL are counted."""

    world: World
    proxy: Proxy
    worker: OneByOneWorker
    statements: list[str] = field(default_factory=list)

    async def of(self, work: Callable[[], Awaitable[Any]]) -> Waits:
        self.statements.clear()
        before = self.proxy.round_trips
        await work()
        clock = sum("frozen.now" in statement for statement in self.statements)  # each transaction of a test sets it
        return Waits(self.proxy.round_trips - before - clock, self._locked())

    def _locked(self) -> int:
        count, is_locked = 0, False
        for statement in self.statements:
            count += is_locked
            is_locked = statement != "COMMIT" and (
                is_locked or ("FROM accounts" in statement and "FOR UPD" in statement)
            )
        return count


@pytest.fixture
async def distance(tmp_path: Path, postgres_url: str) -> AsyncGenerator[Distance]:
    async with proxy_to(postgres_url) as proxy, open_world(tmp_path, proxy.url) as world:
        small(world)
        found = Distance(world, proxy, OneByOneWorker(world.use))
        postgres = as_postgres(world.use.db)
        assert postgres is not None
        (engine,) = postgres.engines
        event.listen(engine, "before_cursor_execute", lambda *call: found.statements.append(call[2]))
        event.listen(engine, "commit", lambda _: found.statements.append("COMMIT"))
        for _ in range(WARM_UP):
            await one_task(found)
        world.clock.advance(60)
        await world.work()  # the polls that the callbacks made needless
        yield found


async def one_task(distance: Distance, **params: Any) -> dict[str, Waits]:
    world = distance.world

    async def post() -> None:
        """Post a task, and wait until its delivered answer is recorded."""
        await world.post(**params)
        transport = world.network.hosts["gateway"]
        assert isinstance(transport, httpx.ASGITransport)
        await transport.app.state.answers.settled()  # type: ignore[attr-defined]

    async def work() -> None:
        while await distance.worker.run_given():
            pass

    waits = {"post": await distance.of(post), "submission": await distance.of(work)}
    world.clock.advance(3)
    return waits | {"callback": await distance.of(world.twin.tick), "image": await distance.of(work)}


async def test_a_task_needs_no_more_round_trips_than_documented(distance: Distance) -> None:
    tasks = [await one_task(distance) for _ in range(TASKS)]
    waits = {part: min(task[part] for task in tasks) for part in MOST}

    assert [part for part, most in MOST.items() if waits[part].all > most.all] == [], waits
    assert [part for part, most in MOST.items() if waits[part].locked > most.locked] == [], waits


async def test_an_input_image_adds_no_more_round_trips_to_a_post_than_documented(distance: Distance) -> None:
    tasks = [await one_task(distance, input_image=IMAGE) for _ in range(WARM_UP + TASKS)]
    waits = [task["post"] for task in tasks]

    assert min(post.all for post in waits) <= MOST["post"].all + FOR_AN_IMAGE, waits
    assert min(post.locked for post in waits) <= MOST["post"].locked, waits


async def test_a_task_that_gets_no_slot_keeps_the_account_locked_for_two_round_trips(distance: Distance) -> None:
    for _ in range(SLOTS):
        await distance.world.post()

    assert (await distance.of(distance.world.post)).locked <= 2


async def test_a_callback_that_hands_its_slot_on_keeps_the_account_locked_for_six_round_trips(
    distance: Distance,
) -> None:
    world = distance.world
    for _ in range(SLOTS):
        await world.post()
    await world.work()
    await world.post()
    world.clock.advance(3)

    assert (await distance.of(world.twin.tick)).locked <= 6
