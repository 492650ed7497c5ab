"""Retention deletes old deliveries of each endpoint, and endpoints that nothing names."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from app.db import Connection
from app.db.engine.database import open_database
from app.db.tables import deliveries as deliveries_table
from app.db.tables import endpoints, task_updates
from app.db.tables.endpoints import EndpointName, NewEndpoint
from app.rules.retention import Retention
from app.rules.task import Status
from app.transitions.retention import end_endpoint, next_endpoints
from app.webhooks import outbox
from app.webhooks.outbox import Reached
from app.worker.retention import prune
from tests.databases import Gate
from tests.receivers import URL, deliveries, ended, receiver
from tests.rows import START, plan_task, put_account
from tests.world import World

DAY = 86_400
TEST = {"webhook_url": URL}


async def urls(world: World) -> list[str]:
    answer = await world.api.get("/v1/endpoints")
    return [endpoint["url"] for endpoint in answer.json()["endpoints"]]


async def pruned(world: World, days: int = 31, **kept: Any) -> None:
    """Prune after this many days, with evidence that is kept for 30 days."""
    world.clock.advance(days * DAY)
    await prune(replace(world.use, retention=Retention(evidence=timedelta(days=30), **kept)))


async def test_an_endpoint_that_nothing_names_is_forgotten_with_its_deliveries(each_world: World) -> None:
    receiver(each_world, 200)
    await ended(each_world)
    await pruned(each_world, 29)
    young = await urls(each_world)
    await pruned(each_world, 2)

    assert young == [URL]
    assert await deliveries(each_world) == []
    assert await urls(each_world) == []


async def test_the_delivery_of_a_test_is_deleted_too(each_world: World) -> None:
    receiver(each_world, 200)
    assert (await each_world.api.post("/v1/endpoints/test", json=TEST)).status_code == 202
    await each_world.work()
    before = await deliveries(each_world)
    await pruned(each_world)

    assert len(before) == 1
    assert await deliveries(each_world) == []
    assert await urls(each_world) == []


async def test_a_delivery_that_was_replayed_counts_from_its_new_end(each_world: World) -> None:
    receiver(each_world, 200)
    await ended(each_world)
    each_world.clock.advance(25 * DAY)
    (delivery,) = await deliveries(each_world)
    await each_world.api.post(f"/v1/deliveries/{delivery['id']}/replay")
    await each_world.work()
    await pruned(each_world, 6)
    after_the_task = await deliveries(each_world)
    await pruned(each_world, 25)

    assert len(after_the_task) == 1
    assert await deliveries(each_world) == []
    assert await urls(each_world) == []


@pytest.mark.parametrize("state", ["waiting delivery", "open task", "key"])
async def test_an_endpoint_that_something_names_stays(each_world: World, state: str) -> None:
    receiver(each_world, 500 if state == "waiting delivery" else 200)
    await ended(each_world)
    each_world.clock.advance(31 * DAY)
    if state == "open task":
        await each_world.post(webhook_url=URL)
    if state == "key":
        changed = await each_world.api.patch("/v1/keys/key_admin", json={"webhook_url": URL})
        assert changed.status_code == 200, changed.text
    await pruned(each_world, 0)

    assert await urls(each_world) == [URL]


async def test_without_a_retention_deliveries_and_their_endpoints_stay(each_world: World) -> None:
    receiver(each_world, 200)
    await ended(each_world)
    each_world.clock.advance(4000 * DAY)
    await prune(each_world.use)

    assert len(await deliveries(each_world)) == 1
    assert await urls(each_world) == [URL]


async def test_every_endpoint_gets_its_turn(each_world: World) -> None:
    receiver(each_world, 200)
    for number in range(5):
        await ended(each_world, webhook_url=f"{URL}/{number}")
    seen = []
    for _ in range(3):
        found = await each_world.use.db.write(next_endpoints, 2)
        seen.append([endpoint.endpoint_id for endpoint in found])
    again = await each_world.use.db.write(next_endpoints, 2)

    assert len({id_ for ids in seen for id_ in ids}) == 5
    assert [endpoint.endpoint_id for endpoint in again] == seen[0]


def put_endpoint(connection: Connection) -> str:
    """Insert an endpoint of long ago that nothing names, and a queued task of its application."""
    put_account(connection)
    plan_task(connection, webhook_url=URL, webhook_form="event", webhook_events=[])
    endpoints.ensure(connection, [NewEndpoint("ep_1", "app_admin", URL, START - timedelta(days=90))])
    return "ep_1"


async def test_a_delivery_that_is_planned_meanwhile_keeps_the_endpoint(postgres_url: str) -> None:
    async with open_database(postgres_url) as database, open_database(postgres_url) as other:
        endpoint_id = await database.write(put_endpoint)
        gate = Gate()

        def end_task(connection: Connection) -> None:
            task_updates.move(connection, "task_1", Status.CANCELLED, START)
            outbox.plan(connection, [Reached("task_1", Status.CANCELLED)], START)
            gate.hold(connection)

        planning = asyncio.create_task(database.write(end_task))
        await gate.reached.wait()
        deleting = asyncio.create_task(other.write(end_endpoint, endpoint_id, None, START))
        await asyncio.sleep(0.2)
        gate.open()
        await planning
        deleted = await deleting
        found = await database.read(endpoints.get, endpoint_id)

    assert deleted == 0
    assert found is not None


async def test_an_endpoint_that_is_deleted_meanwhile_is_created_again(postgres_url: str) -> None:
    async with open_database(postgres_url) as database, open_database(postgres_url) as other:
        await database.write(put_endpoint)
        gate = Gate()

        def delete(connection: Connection) -> None:
            endpoints.lock_to_delete(connection, "ep_1")
            endpoints.remove(connection, "ep_1")
            gate.hold(connection)

        def end_task(connection: Connection) -> None:
            task_updates.move(connection, "task_1", Status.CANCELLED, START)
            outbox.plan(connection, [Reached("task_1", Status.CANCELLED)], START)

        deleting = asyncio.create_task(database.write(delete))
        await gate.reached.wait()
        planning = asyncio.create_task(other.write(end_task))
        await asyncio.sleep(0.2)
        gate.open()
        await asyncio.gather(deleting, planning)
        found = await database.write(endpoints.by_name, {EndpointName("app_admin", URL)})
        waiting = await database.read(deliveries_table.endpoints_with_waiting)

    assert {endpoint.id for endpoint in found.values()} == waiting
    assert "ep_1" not in waiting
