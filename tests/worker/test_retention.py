"""Retention deletes old evidence, downloads and deliveries, and nothing else."""

from dataclasses import replace
from datetime import timedelta
from typing import TypeVar

from app.db import Connection
from app.resources import Resources
from app.rules.retention import Retention
from app.twin import Faults
from app.worker.retention import prune
from app.worker.sweep import sweep
from tests.calling import submitted
from tests.receivers import receiver, stored_with_webhook
from tests.world import World

T = TypeVar("T")
KEPT = timedelta(days=30)
SAID = ("evidence", "downloads", "deliveries", "delivery_attempts")
LASTING = ("tasks", "submissions", "results")


def keeping(world: World) -> Resources:
    return replace(world.use, retention=Retention(evidence=KEPT))


async def rows(world: World, tables: tuple[str, ...] = SAID) -> list[int]:
    """The number of rows in each of these tables."""

    def count(connection: Connection) -> list[int]:
        counted = (connection.exec_driver_sql(f"SELECT count(*) FROM {table}") for table in tables)  # noqa: S608
        return [each.scalar_one() for each in counted]

    return await world.use.db.read(count)


async def test_expired_records_are_deleted_and_the_task_its_attempts_and_its_image_stay(each_world: World) -> None:
    receiver(each_world, 200)
    task_id = await stored_with_webhook(each_world)
    before, lasting = await rows(each_world), await rows(each_world, LASTING)
    seen = await each_world.task(task_id)
    each_world.clock.advance(31 * 86400)
    await prune(keeping(each_world))

    assert min(before) > 0
    assert await rows(each_world) == [0, 0, 0, 0]
    assert await rows(each_world, LASTING) == lasting
    assert await each_world.task(task_id) == seen
    assert (await each_world.api.get(f"/v1/tasks/{task_id}/image")).status_code == 200
    assert len(await each_world.timeline(task_id, "submission")) == 1
    assert await each_world.timeline(task_id, "evidence") == []


async def test_nothing_is_deleted_before_the_retention_ends_or_without_a_retention(each_world: World) -> None:
    receiver(each_world, 200)
    await stored_with_webhook(each_world)
    before = await rows(each_world)
    each_world.clock.advance(29.99 * 86400)
    await prune(keeping(each_world))
    on_the_last_day = await rows(each_world)
    each_world.clock.advance(3650 * 86400)
    await prune(each_world.use)

    assert on_the_last_day == before
    assert await rows(each_world) == before


async def test_records_of_an_open_task_are_never_deleted(each_world: World) -> None:
    await submitted(each_world, faults=Faults(drop_callback=1))
    before = await rows(each_world)
    each_world.clock.advance(400 * 86400)
    await prune(keeping(each_world))

    assert before[0] > 0
    assert await rows(each_world) == before


async def test_the_retention_begins_with_the_end_of_the_task(each_world: World) -> None:
    caller = await submitted(each_world, faults=Faults(drop_callback=1))
    each_world.clock.advance(20 * 86400)
    await each_world.work()
    ended = (await each_world.task(caller.task_id))["status"]
    before = await rows(each_world, ("evidence",))
    each_world.clock.advance(20 * 86400)
    await prune(keeping(each_world))
    young = await rows(each_world, ("evidence",))
    each_world.clock.advance(20 * 86400)
    await prune(keeping(each_world))

    assert ended == "failed"
    assert young == before
    assert await rows(each_world, ("evidence",)) == [0]


async def test_a_waiting_delivery_is_not_deleted(each_world: World) -> None:
    receiver(each_world, 500)
    await stored_with_webhook(each_world)
    each_world.clock.advance(31 * 86400)
    await prune(keeping(each_world))

    assert (await rows(each_world))[2:] != [0, 0]
    assert (await rows(each_world))[0] == 0


async def test_old_open_tasks_do_not_stop_the_deletion_of_later_ones(each_world: World) -> None:
    for _ in range(3):
        await submitted(each_world, faults=Faults(drop_callback=1))
    open_ones = await rows(each_world)
    each_world.twin.faults = Faults()
    receiver(each_world, 200)
    await stored_with_webhook(each_world)
    all_of_them = await rows(each_world)
    each_world.clock.advance(31 * 86400)
    await prune(keeping(each_world), batch=1)

    assert open_ones[0] < all_of_them[0]
    assert (await rows(each_world))[0] >= open_ones[0]
    assert (await rows(each_world))[1:] == [0, 0, 0]


async def test_one_round_examines_a_limited_number_of_tasks_and_the_next_continues(each_world: World) -> None:
    receiver(each_world, 200)
    for _ in range(3):
        await stored_with_webhook(each_world)
    (before,) = await rows(each_world, ("downloads",))
    each_world.clock.advance(31 * 86400)
    seen = []
    for _ in range(3):
        await prune(keeping(each_world), batch=1, at_once=1)
        seen.append((await rows(each_world, ("downloads",)))[0])

    assert seen == [before * left // 3 for left in (2, 1, 0)]


async def test_each_sweep_prunes(each_world: World) -> None:
    receiver(each_world, 200)
    await stored_with_webhook(each_world)
    each_world.clock.advance(31 * 86400)
    await sweep(keeping(each_world))

    assert await rows(each_world) == [0, 0, 0, 0]
