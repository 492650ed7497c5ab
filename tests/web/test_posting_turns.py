"""Posts of one application are recorded in turns, so that another one does not wait behind all of them."""

import asyncio
from contextlib import AsyncExitStack

from tests.applications import application
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
