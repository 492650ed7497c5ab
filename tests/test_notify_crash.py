"""The process is killed around each database access of a delivery: webhooks are delivered at least once."""

from contextlib import suppress
from dataclasses import replace
from itertools import product

from app import jobs
from tests.proof.test_worker_crash import Dying, Killed
from tests.receivers import URL, only_delivery, receiver
from tests.world import World


async def test_a_process_killed_during_a_delivery_sends_it_again_with_the_same_id(world: World) -> None:
    heard = receiver(world)
    living = world.use
    for number, after in product(range(1, 7), (False, True)):
        heard.requests.clear()
        world.clock.advance(1)
        task_id = await world.post(webhook_url=URL)
        await world.api.post(f"/v1/tasks/{task_id}/cancel")
        world.use = replace(living, db=Dying(living.db, number, after=after))
        with suppress(Killed):
            await world.work()
        world.use = living
        await living.db.write(lambda connection: jobs.release(connection, living.worker_id))
        await world.work()
        delivery = await only_delivery(world, task_id=task_id)

        assert delivery["state"] == "delivered", (number, after)
        assert set(heard.ids) == {delivery["id"]}
        assert 1 <= len(heard.ids) <= 2
    assert await living.db.read(jobs.dead_letters) == []
