"""Each class of a task's data is deleted when its retention ends, from the database and from the store."""

import asyncio
import base64
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from starlette.responses import Response

from app.db import Connection
from app.db.engine.database import Database
from app.db.queries import retention
from app.db.queries.retention import Group
from app.db.tables import removals, results
from app.db.tables.results import thumbnail_key
from app.errors import Conflict, StoreUnavailable, Unavailable
from app.resources import Resources
from app.rules.retention import DataClass, Retention
from app.rules.task import Failure, MoneySpent
from app.store import FolderStore
from app.transitions import moves
from app.transitions import removals as removing
from app.transitions.retention import end
from app.twin import Faults
from app.worker.retention import prune
from app.worker.sweep import orphaned, sweep
from tests.calling import caller_of, everything, small, submitted
from tests.pictures import picture
from tests.receivers import Receiver, deliveries, receiver, stored_with_webhook
from tests.rows import START, newest_tasks
from tests.test_collect import files
from tests.web.documents import problem
from tests.web.routes.test_applications import application, headers, key_of
from tests.world import World

T = TypeVar("T")
HOUR, DAY = 3600, 86_400
MONTH = timedelta(days=30)
PROMPT = "a fox that is kept for a month"


def keeping(world: World, **kept: timedelta | None) -> Resources:
    """The resources with these retentions."""
    return replace(world.use, retention=Retention(**kept))


def given() -> str:
    return base64.b64encode(picture()).decode()


async def stored(world: World, **params: Any) -> str:
    small(world)
    answer = await world.api.post("/v1/tasks", json={"prompt": PROMPT, **params})
    await world.go_on(6)
    task_id = str(answer.json()["id"])
    assert (await world.task(task_id))["status"] == "stored"
    return task_id


async def failed(world: World, **params: Any) -> str:
    """A task that was sent, and failed."""
    caller = await submitted(world, **params)

    def fail(connection: Connection) -> None:
        moves.give_up(connection, caller.task_id, Failure.PROVIDER_ERROR, MoneySpent.NO, "it failed", world.clock.at)

    await world.use.db.write(fail)
    return caller.task_id


async def pruned(world: World, use: Resources) -> None:
    """Prune, and run the jobs that this makes."""
    await prune(use)
    await world.work()


async def values(world: World) -> list[str]:
    """All rows of tasks and of what belongs to them."""

    def read(connection: Connection) -> list[str]:
        names = ("tasks", "submissions", "evidence", "results", "downloads", "deliveries", "removals")
        return [str(row) for name in names for row in connection.exec_driver_sql(f"SELECT * FROM {name}")]  # noqa: S608

    return sorted(await world.use.db.read(read))


async def usage(world: World) -> Any:
    """The usage of all tasks until now."""
    world.clock.advance(1)
    return (await world.api.get("/v1/usage", params={"from": "2026-01-01T00:00:00Z"})).json()["usage"]


async def test_an_image_is_deleted_and_its_task_says_so_and_keeps_its_cost(each_world: World, tmp_path: Path) -> None:
    old = await stored(each_world)
    link = (await each_world.api.get(f"/v1/get_result?id={old}")).json()["result"]["sample"]
    each_world.clock.advance(20 * DAY)
    young = await stored(each_world)
    before, used = await each_world.task(old), await usage(each_world)
    each_world.clock.advance(11 * DAY)
    await pruned(each_world, keeping(each_world, images=MONTH))
    after = await each_world.task(old)
    removed_at = after["image"].pop("removed_at")
    again = (await each_world.api.get(f"/v1/get_result?id={old}")).json()["result"]["sample"]

    assert removed_at is not None
    assert after["image"] == {name: value for name, value in before["image"].items() if name != "removed_at"}
    assert {**after, "image": None} == {**before, "image": None}
    assert after["cost"] > 0
    assert await usage(each_world) == used
    problem(await each_world.api.get(f"/v1/tasks/{old}/image"), 410, "image_removed")
    problem(await each_world.api.get(again), 410, "image_removed")
    assert (await each_world.outsider.get(link)).status_code == 410
    assert (await each_world.api.get(f"/v1/tasks/{young}/image")).status_code == 200
    assert len(files(tmp_path / "images")) == 2  # the image of the young task and its thumbnail


async def test_input_images_are_deleted_and_the_result_stays(each_world: World, tmp_path: Path) -> None:
    task_id = await stored(each_world, input_image=given())
    before = await each_world.task(task_id)
    each_world.clock.advance(31 * DAY)
    await pruned(each_world, keeping(each_world, inputs=MONTH))
    after = await each_world.task(task_id)

    assert before["inputs_removed_at"] is None
    assert after == {**before, "inputs_removed_at": after["inputs_removed_at"]}
    assert after["inputs_removed_at"] is not None
    assert (await each_world.api.get(f"/v1/tasks/{task_id}/image")).status_code == 200
    assert [name for name in files(tmp_path / "images") if name.startswith("inputs/")] == []


async def test_a_failed_task_whose_inputs_are_gone_is_not_resubmitted(each_world: World) -> None:
    task_id = await failed(each_world, input_image=given())
    without = await failed(each_world)
    each_world.clock.advance(31 * DAY)
    await pruned(each_world, keeping(each_world, inputs=MONTH))
    refused = problem(await each_world.api.post(f"/v1/tasks/{task_id}/resubmit"), 409, "conflict")

    assert "retention" in refused["detail"]
    assert (await each_world.api.post(f"/v1/tasks/{without}/resubmit")).status_code == 202


async def test_a_task_is_deleted_with_all_that_belongs_to_it_and_stays_in_the_usage(
    each_world: World, tmp_path: Path
) -> None:
    receiver(each_world, 200)
    await stored_with_webhook(each_world, prompt=PROMPT, input_image=given(), user="customer-17")
    await failed(each_world, prompt=PROMPT)
    used = await usage(each_world)
    each_world.clock.advance(31 * DAY)
    await pruned(each_world, keeping(each_world, tasks=MONTH))
    audited = (await each_world.api.get("/v1/audit")).status_code

    assert (await each_world.api.get("/v1/tasks")).json()["tasks"] == []
    assert (await each_world.api.get("/v1/deliveries")).json()["deliveries"] == []
    assert await usage(each_world) == used
    assert audited == 200
    assert files(tmp_path / "images") == {}
    assert PROMPT.encode() not in await each_world.use.db.read(everything)
    assert await each_world.use.db.read(removals.first, 1) == []


async def test_a_deleted_task_is_unknown_and_can_be_deleted_again(each_world: World) -> None:
    task_id = await stored(each_world)
    each_world.clock.advance(31 * DAY)
    await pruned(each_world, keeping(each_world, tasks=MONTH))

    problem(await each_world.api.get(f"/v1/tasks/{task_id}"), 404, "not_found")
    assert (await each_world.api.delete(f"/v1/tasks/{task_id}")).status_code == 204


@pytest.mark.parametrize("data", list(DataClass))
async def test_nothing_of_an_open_task_is_deleted(each_world: World, tmp_path: Path, data: DataClass) -> None:
    await submitted(each_world, faults=Faults(drop_callback=1), input_image=given())
    use = keeping(each_world, **{data.value: timedelta(days=1)})
    await prune(use)
    before, kept = await values(each_world), files(tmp_path / "images")
    each_world.clock.advance(400 * DAY)
    await prune(use)

    assert await values(each_world) == before
    assert files(tmp_path / "images") == kept


async def test_the_retention_begins_with_the_last_end_of_a_task(each_world: World) -> None:
    task_id = await failed(each_world)
    each_world.clock.advance(20 * DAY)
    assert (await each_world.api.post(f"/v1/tasks/{task_id}/resubmit")).status_code == 202
    each_world.twin.faults = Faults()
    await each_world.go_on(10)
    assert (await each_world.task(task_id))["status"] == "stored"
    each_world.clock.advance(20 * DAY)
    await pruned(each_world, keeping(each_world, tasks=MONTH))
    young = (await each_world.api.get(f"/v1/tasks/{task_id}")).status_code
    each_world.clock.advance(11 * DAY)
    await pruned(each_world, keeping(each_world, tasks=MONTH))

    assert young == 200
    assert (await each_world.api.get(f"/v1/tasks/{task_id}")).status_code == 404


async def test_an_application_has_retentions_of_its_own(each_world: World) -> None:
    owners = {}
    small(each_world)
    for name, days in (("brief", 7), ("usual", None), ("lasting", 0)):
        made = await application(each_world, name=name, retention_days={"images": days})
        key = await key_of(each_world, made["id"])
        posted = await each_world.outsider.post("/v1/tasks", json={"prompt": "a red fox"}, headers=headers(key))
        owners[posted.json()["id"]] = name
    await each_world.go_on(6)

    async def removed() -> set[str]:
        return {owners[id_] for id_ in owners if (await each_world.task(id_))["image"]["removed_at"] is not None}

    seen = []
    for days in (6, 2, 23, 900):
        each_world.clock.advance(days * DAY)
        await pruned(each_world, keeping(each_world, images=MONTH))
        seen.append(await removed())

    assert seen == [set(), {"brief"}, {"brief", "usual"}, {"brief", "usual"}]


async def test_a_shorter_retention_reaches_what_a_longer_one_has_left(each_world: World) -> None:
    first = await stored(each_world)
    each_world.clock.advance(20 * DAY)
    second = await stored(each_world)
    each_world.clock.advance(11 * DAY)
    await pruned(each_world, keeping(each_world, images=MONTH))
    left = (await each_world.task(second))["image"]["removed_at"]
    await pruned(each_world, keeping(each_world, images=timedelta(days=5)))
    images = [(await each_world.task(task_id))["image"]["removed_at"] for task_id in (first, second)]

    assert left is None
    assert None not in images


async def test_a_file_of_several_results_is_deleted_with_the_last_of_them(each_world: World, tmp_path: Path) -> None:
    """Up to version 0.2, results with the same bytes shared one file."""
    first, second = await stored(each_world), await stored(each_world)
    found = await each_world.use.db.read(results.of_tasks, [first, second])
    digest = found[first].sha256
    shared = f"results/{digest[:2]}/{digest}.png"
    (tmp_path / "images" / shared).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "images" / shared).write_bytes(b"as the bytes were stored")

    def share(connection: Connection) -> None:
        connection.execute(results.results.update().values(store_key=shared, sha256=digest))

    await each_world.use.db.write(share)
    each_world.clock.advance(31 * DAY)
    seen = []
    for task_id in (first, second):
        group = Group(DataClass.IMAGES, each_world.clock.at - MONTH, (), excluded=True)
        await each_world.use.db.write(end, group, "app_admin", each_world.clock.at, 1)
        await each_world.work()
        seen.append((await each_world.task(task_id))["image"]["removed_at"] is not None)
        seen.append(shared in files(tmp_path / "images"))

    assert seen == [True, True, True, False]


async def test_a_task_whose_webhook_waits_is_kept_until_it_is_delivered(each_world: World) -> None:
    application_of_url = receiver(each_world, 500)
    task_id = await stored_with_webhook(each_world)
    each_world.clock.advance(31 * DAY)
    use = keeping(each_world, tasks=MONTH)
    await prune(use)
    waiting = (await each_world.api.get(f"/v1/tasks/{task_id}")).status_code
    application_of_url.answers = []
    await each_world.work()
    await prune(use)
    await prune(use)

    assert waiting == 200
    assert (await each_world.api.get(f"/v1/tasks/{task_id}")).status_code == 404


async def paused(world: World) -> tuple[Receiver, str]:
    """Return a receiver whose endpoint is paused, and the task whose delivery waits for it."""
    heard = receiver(world, 500)
    await stored_with_webhook(world)
    for _ in range(20):  # the first delivery is given up after three days, and its endpoint is paused
        world.clock.advance(6 * HOUR)
        await world.work()
    (found,) = (await world.api.get("/v1/endpoints")).json()["endpoints"]
    assert found["state"] == "paused"
    return heard, await stored_with_webhook(world)


async def test_a_paused_endpoint_keeps_a_task_for_the_schedule_of_retries_alone(each_world: World) -> None:
    _, task_id = await paused(each_world)
    use = keeping(each_world, tasks=timedelta(days=1))
    each_world.clock.advance(2 * DAY)
    await prune(use)
    (early,) = await deliveries(each_world, task_id=task_id)
    each_world.clock.advance(2 * DAY)
    await prune(use)

    assert early["state"] == "waiting"
    assert (await each_world.api.get(f"/v1/tasks/{task_id}")).status_code == 404
    assert await deliveries(each_world, task_id=task_id) == []


async def test_a_delivery_that_waits_for_a_paused_endpoint_ends_with_the_retention_of_evidence(
    each_world: World,
) -> None:
    heard, task_id = await paused(each_world)
    use = keeping(each_world, evidence=MONTH)
    each_world.clock.advance(29 * DAY)
    await prune(use)
    (waiting,) = await deliveries(each_world, task_id=task_id)
    each_world.clock.advance(2 * DAY)
    await prune(use)
    (given_up,) = await deliveries(each_world, task_id=task_id)
    heard.answers = [Response()]
    replayed = await each_world.api.post(f"/v1/deliveries/{given_up['id']}/replay")
    await each_world.api.post(f"/v1/endpoints/{given_up['endpoint_id']}/resume")
    await each_world.work()
    (delivered,) = await deliveries(each_world, task_id=task_id)
    each_world.clock.advance(31 * DAY)
    await prune(use)

    assert (waiting["state"], given_up["state"], delivered["state"]) == ("waiting", "failed", "delivered")
    assert "paused for longer than the data is kept" in given_up["detail"]
    assert replayed.status_code == 202
    assert await deliveries(each_world, task_id=task_id) == []


async def test_evidence_that_arrives_after_its_retention_is_deleted_too(each_world: World) -> None:
    caller = await caller_of(each_world, await stored(each_world))
    body = caller.ready()
    each_world.clock.advance(31 * DAY)
    await prune(keeping(each_world, evidence=MONTH))
    answer = await caller.call({**body, "late": "very"})
    arrived = await each_world.timeline(caller.task_id, "evidence")
    each_world.clock.advance(31 * DAY)
    await prune(keeping(each_world, evidence=MONTH))

    assert (answer.status_code, [entry["effect"] for entry in arrived]) == (200, ["late"])
    assert await each_world.timeline(caller.task_id, "evidence") == []


@dataclass
class Away(FolderStore):
    """A store that cannot delete."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)

    async def remove(self, key: str) -> None:
        raise StoreUnavailable(f"{key} cannot be deleted now")


async def test_files_are_deleted_when_the_store_is_back(each_world: World, tmp_path: Path) -> None:
    task_id = await stored(each_world)
    each_world.clock.advance(31 * DAY)
    use = keeping(each_world, images=MONTH)
    await prune(use)
    with pytest.raises(StoreUnavailable):
        await removing.run(replace(use, store=Away(tmp_path / "images")))
    kept = files(tmp_path / "images")
    gone = await each_world.api.get(f"/v1/tasks/{task_id}/image")
    await removing.run(use)

    assert len(kept) == 2
    assert gone.status_code == 410
    assert files(tmp_path / "images") == {}


async def test_a_sweep_schedules_the_deletion_of_files_if_its_job_is_missing(each_world: World) -> None:
    await stored(each_world)
    each_world.clock.advance(31 * DAY)
    await prune(keeping(each_world, images=MONTH))
    with_job = await each_world.use.db.read(orphaned)
    await each_world.use.db.write(removals.remove, await each_world.use.db.read(removals.first, 9))
    await each_world.work()
    await each_world.use.db.write(removals.put, ["results/aa/x.y.png"], each_world.clock.at)
    without = await each_world.use.db.read(orphaned)

    assert with_job == []
    assert without == [("erase", removing.SUBJECT)]


@dataclass
class Dying:
    """A database whose process is killed after a given number of commits."""

    real: Database
    commits: int

    async def read(self, work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        return await self.real.read(work, *args, **kwargs)

    async def write(self, work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        if not self.commits:
            raise Unavailable("killed")
        self.commits -= 1
        return await self.real.write(work, *args, **kwargs)


def referenced(connection: Connection) -> set[str]:
    """Return the names of all files that a row shows, or that are requested to be deleted."""
    keys = set(removals.first(connection, 1000))
    for task in newest_tasks(connection, 100):
        if task.inputs_removed_at is None:
            keys |= {image.store_key for image in task.request.images}
        keys |= {
            result.store_key for result in results.of_tasks(connection, [task.id]).values() if result.removed_at is None
        }
    return keys | {thumbnail_key(key) for key in keys if key.startswith("results/")}


@pytest.mark.parametrize("commits", range(9))
async def test_a_kill_after_any_commit_leaves_no_file_without_a_row(
    each_world: World, tmp_path: Path, commits: int
) -> None:
    for _ in range(2):
        await stored(each_world, input_image=given())
    each_world.clock.advance(31 * DAY)
    use = keeping(each_world, images=MONTH, inputs=MONTH, evidence=MONTH, tasks=timedelta(days=31))
    dying: Any = Dying(each_world.use.db, commits)
    with suppress(Unavailable):
        await prune(replace(use, db=dying), batch=1)
        await removing.run(replace(use, db=dying))
    left = await each_world.use.db.read(referenced)
    unknown = set(files(tmp_path / "images")) - left
    await prune(use)
    await removing.run(use)

    assert unknown == set()
    assert files(tmp_path / "images") == {}


async def test_a_task_that_is_resubmitted_since_it_was_found_is_left_alone(each_world: World) -> None:
    task_id = await failed(each_world, input_image=given())
    each_world.clock.advance(31 * DAY)

    def resubmit_then_end(connection: Connection) -> list[str]:
        moves.resubmit(connection, task_id, each_world.clock.at)
        return [task.id for task in retention.ended(connection, [task_id], each_world.clock.at - MONTH)]

    assert await each_world.use.db.write(resubmit_then_end) == []


async def test_a_resubmission_of_a_task_without_inputs_is_refused_in_its_transaction(each_world: World) -> None:
    task_id = await failed(each_world, input_image=given())
    await each_world.use.db.write(retention.mark_inputs, [task_id], START)

    with pytest.raises(Conflict):
        await each_world.use.db.write(moves.resubmit, task_id, each_world.clock.at)


async def test_each_sweep_follows_the_retentions(each_world: World) -> None:
    task_id = await stored(each_world)
    each_world.clock.advance(2 * DAY)
    await sweep(keeping(each_world, tasks=timedelta(days=1)))

    assert (await each_world.api.get(f"/v1/tasks/{task_id}")).status_code == 404


async def test_what_was_examined_is_not_read_again(each_world: World) -> None:
    for _ in range(3):
        await stored(each_world)
    each_world.clock.advance(31 * DAY)
    group = Group(DataClass.IMAGES, each_world.clock.at - MONTH, (), excluded=True)
    before = await each_world.use.db.read(retention.due, group)
    await prune(keeping(each_world, images=MONTH))

    assert before == ["app_admin"]
    assert await each_world.use.db.read(retention.due, group) == []


async def test_two_sweeps_at_once_delete_each_file_and_row_once(each_world: World, tmp_path: Path) -> None:
    for _ in range(4):
        await stored(each_world, input_image=given())
    used = await usage(each_world)
    each_world.clock.advance(31 * DAY)
    use = keeping(each_world, images=MONTH, inputs=MONTH, evidence=MONTH, tasks=MONTH)
    await asyncio.gather(prune(use, batch=1), prune(use, batch=1), prune(use, batch=3))
    await asyncio.gather(removing.run(use), removing.run(use))

    assert (await each_world.api.get("/v1/tasks")).json()["tasks"] == []
    assert await usage(each_world) == used
    assert files(tmp_path / "images") == {}
