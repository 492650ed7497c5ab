"""What one application sends takes turns, so that another one does not wait behind all of it."""

import asyncio
from contextlib import AsyncExitStack
from functools import partial

import pytest

from app.db.engine.sqlite import Sqlite
from app.db.engine.units import Unit
from tests.applications import Headers, application
from tests.databases import Gate
from tests.sockets import until
from tests.web.documents import rows
from tests.web.test_budgets import post
from tests.world import World

AT_ONCE = 8


async def test_posts_of_another_application_do_not_wait_for_those_that_are_being_recorded(each_world: World) -> None:
    shop, museum = await application(each_world, "shop"), await application(each_world, "museum")
    async with AsyncExitStack() as recording:
        for _ in range(AT_ONCE):
            await recording.enter_async_context(each_world.use.recording.taken("app_shop"))
        waiting = asyncio.create_task(post(each_world, shop))

        assert (await post(each_world, museum)).status_code == 202
        assert (await rows(each_world))["tasks"] == 1
    assert (await waiting).status_code == 202


async def test_on_sqlite_a_post_is_written_after_one_of_another_application(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, museum = await application(world, "shop"), await application(world, "museum")
    for key in (shop, museum):
        assert (await post(world, key)).status_code == 202  # the application of the key is known from now on
    gate, order, owners = Gate(), list[str](), list[str | None]()
    assert isinstance(world.use.db, Sqlite)
    add = world.use.db._writer.add

    def noting(unit: Unit, *, owner: str | None) -> None:
        owners.append(owner)
        add(unit, owner=owner)

    async def send(name: str, headers: Headers) -> None:
        assert (await post(world, headers)).status_code == 202
        order.append(name)

    async def are_waiting(owner: str, count: int) -> bool:
        return owners.count(owner) == count

    blocking = asyncio.create_task(world.use.db.write(gate.hold))
    await gate.reached.wait()
    monkeypatch.setattr(world.use.db._writer, "add", noting)
    sending = [asyncio.create_task(send("shop", shop)) for _ in range(20)]
    await until(partial(are_waiting, "app_shop", AT_ONCE))
    sending.append(asyncio.create_task(send("museum", museum)))
    await until(partial(are_waiting, "app_museum", 1))
    gate.open()
    await asyncio.gather(blocking, *sending)

    assert order.index("museum") <= 2


async def test_a_post_does_not_wait_behind_statistics_that_are_being_read(each_world: World) -> None:
    shop, museum = await application(each_world, "shop"), await application(each_world, "museum")
    async with AsyncExitStack() as reading:
        for _ in range(2):
            await reading.enter_async_context(each_world.use.reporting.taken())
        waiting = [asyncio.create_task(each_world.outsider.get("/v1/usage", headers=shop)) for _ in range(20)]

        assert (await post(each_world, museum)).status_code == 202
        assert not any(request.done() for request in waiting)
    assert {(await request).status_code for request in waiting} == {200}
