"""Erasure removes a task's request, results and evidence, and keeps its cost."""

import asyncio
import base64
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import httpx
import pytest
from sqlalchemy import func, select, text

from app import jobs
from app.collect import collect, store_spooled
from app.db import Connection
from app.db.tables import attempts as attempts_table
from app.db.tables import delivery_attempts, erased_tasks, results
from app.db.tables.deliveries import deliveries as deliveries_table
from app.db.tables.delivery_attempts import DeliveryAttempt
from app.errors import Unavailable
from app.jobs import NewJob, Step
from app.store import FolderStore
from app.transitions.erase import erase as erase_task
from app.worker import loop
from tests.calling import caller_of, done, everything, small, submitted
from tests.pictures import picture
from tests.proof.crash_points import AFTER_COMMIT, BEFORE_COMMIT, Fuse, FusedDatabase, Point, Stop
from tests.receivers import URL, deliveries, receiver, until_due
from tests.rows import claim
from tests.test_collect import files
from tests.web.documents import problem
from tests.web.routes.test_deliveries import key_for
from tests.world import World, open_world

NO_SUCH_TASK = "task_0000000000000000000000000000000000000"
PROMPT = "a fox that must be forgotten"


async def erase(world: World, task_id: str, **request: Any) -> httpx.Response:
    return await world.api.delete(f"/v1/tasks/{task_id}", **request)


async def stored(world: World, **params: Any) -> str:
    """A stored task."""
    small(world)
    task_id = await world.post(prompt=PROMPT, **params)
    await world.go_on(6)
    assert (await world.task(task_id))["status"] == "stored"
    return task_id


def given() -> str:
    """An input image with the same bytes each time."""
    return base64.b64encode(picture()).decode()


async def images_still_stored(world: World, task_id: str) -> int:
    """Return how many images of an erased task are recorded as still stored."""
    found = await world.use.db.read(lambda connection: erased_tasks.store_keys(connection, task_id))
    assert found is not None
    return len(found)


async def test_images_are_removed_once_no_job_adds_a_thumbnail(each_world: World, tmp_path: Path) -> None:
    task_id = await stored(each_world)
    await each_world.use.db.write(jobs.enqueue, [NewJob(Step.COLLECT, task_id, each_world.use.now())])
    (collecting,) = await each_world.use.db.write(claim, each_world.use.now())
    await erase(each_world, task_id)
    await each_world.work()
    before = await images_still_stored(each_world, task_id)
    await each_world.use.db.write(jobs.finish, collecting)
    await each_world.go_on(6)

    assert before > 0
    assert await images_still_stored(each_world, task_id) == 0
    assert files(tmp_path / "images") == {}


async def test_an_erased_task_and_its_images_are_gone(each_world: World, tmp_path: Path) -> None:
    receiver(each_world)
    task_id = await stored(each_world, input_image=given(), webhook_url=URL)
    told = await deliveries(each_world)
    kept = files(tmp_path / "images")
    answer = await erase(each_world, task_id)
    await each_world.work()
    looks = [f"/v1/tasks/{task_id}{more}" for more in ("", "/timeline", "/image", "/events")]
    looks.append(f"/v1/get_result?id={task_id}")

    assert len(told) == 1
    assert len(kept) == 3  # the input image, the result and its thumbnail
    assert (answer.status_code, answer.content) == (204, b"")
    assert [(await each_world.api.get(look)).status_code for look in looks] == [404] * 5
    assert (await each_world.api.get("/v1/tasks")).json()["tasks"] == []
    assert await deliveries(each_world) == []
    assert files(tmp_path / "images") == {}
    assert PROMPT.encode() not in await each_world.use.db.read(everything)


async def test_the_cost_of_an_erased_task_stays_in_the_usage(each_world: World) -> None:
    task_id = await stored(each_world)
    (before,) = (await each_world.api.get("/v1/usage")).json()["usage"]
    await erase(each_world, task_id)
    (after,) = (await each_world.api.get("/v1/usage")).json()["usage"]

    assert before["stored"] == 1
    assert before["cost"] > 0
    assert after == before


async def test_an_open_task_is_not_erased(each_world: World) -> None:
    caller = await submitted(each_world)
    answer = await erase(each_world, caller.task_id)

    assert problem(answer, 409, "conflict")["detail"].startswith("the task is submitted: cancel it")
    assert (await each_world.task(caller.task_id))["status"] == "submitted"


async def test_erasing_twice_succeeds_and_an_unknown_task_is_not_found(each_world: World) -> None:
    task_id = await each_world.post()
    await each_world.api.post(f"/v1/tasks/{task_id}/cancel")

    assert [(await erase(each_world, task_id)).status_code for _ in range(2)] == [204, 204]
    problem(await erase(each_world, NO_SUCH_TASK), 404, "not_found")


async def test_a_key_erases_its_own_tasks_and_no_others(world: World) -> None:
    shop, other = await key_for(world, "shop"), await key_for(world, "other")
    posted = await world.outsider.post("/v1/tasks", json={"prompt": PROMPT}, headers=shop)
    task_id = posted.json()["id"]
    await world.api.post(f"/v1/tasks/{task_id}/cancel")
    refused = await world.outsider.delete(f"/v1/tasks/{task_id}", headers=other)
    nobody = await world.outsider.delete(f"/v1/tasks/{task_id}")
    done_by_its_own = await world.outsider.delete(f"/v1/tasks/{task_id}", headers=shop)

    problem(refused, 404, "not_found")
    problem(nobody, 401, "unauthorized")
    assert done_by_its_own.status_code == 204


async def test_erasing_a_task_keeps_the_equal_images_of_others(each_world: World, tmp_path: Path) -> None:
    first, second = [await stored(each_world, input_image=given()) for _ in range(2)]
    before = files(tmp_path / "images")
    await erase(each_world, first)
    await each_world.work()
    left = files(tmp_path / "images")

    assert len(before) == 6
    assert len(left) == 3
    assert (await each_world.api.get(f"/v1/tasks/{second}/image")).status_code == 200


async def shared(world: World, task_ids: list[str]) -> str:
    """Give these tasks one image with a shared key, as earlier versions stored results."""
    key = "results/ab/abc.png"
    changed = results.results.update().values(store_key=key, sha256="abc")
    where = results.results.c.task_id.in_(task_ids)
    await world.use.db.write(lambda connection: connection.execute(changed.where(where)).close())
    return key


async def test_a_shared_image_is_removed_with_the_last_of_its_tasks(each_world: World, tmp_path: Path) -> None:
    first, second = [await stored(each_world) for _ in range(2)]
    key = await shared(each_world, [first, second])
    (tmp_path / "images/results/ab").mkdir(exist_ok=True)
    (tmp_path / "images" / key).write_bytes(b"an image")
    there = []
    for task_id in (first, second):
        await erase(each_world, task_id)
        await each_world.work()
        there.append((tmp_path / "images" / key).exists())

    assert there == [True, False]


async def test_a_callback_for_an_erased_task_is_unknown_and_stores_nothing(each_world: World) -> None:
    task_id = await stored(each_world)
    caller = await caller_of(each_world, task_id)
    await erase(each_world, task_id)
    answer = await caller.call(caller.ready())

    assert answer.status_code == 404
    assert b"a red fox" not in await each_world.use.db.read(everything)


async def test_the_attempts_of_an_erased_task_stay_without_their_details(each_world: World) -> None:
    task_id = await stored(each_world)
    (before,) = await each_world.use.db.read(lambda connection: attempts_table.of_task(connection, task_id))
    await erase(each_world, task_id)
    (after,) = await each_world.use.db.read(lambda connection: attempts_table.of_task(connection, task_id))

    assert after == replace(before, detail=None, polling_url=None)


@pytest.mark.parametrize("prefer", [{}, {"prefer": "wait=1"}])
async def test_the_same_idempotent_request_does_not_recreate_an_erased_task(
    each_world: World, prefer: dict[str, str]
) -> None:
    once, asked = {"idempotency-key": "order of jane@example.com"}, {"prompt": PROMPT}
    first = await each_world.api.post("/v1/tasks", json=asked, headers=once)
    await each_world.api.post(f"/v1/tasks/{first.json()['id']}/cancel")
    await erase(each_world, first.json()["id"])
    again = await each_world.api.post("/v1/tasks", json=asked, headers={**once, **prefer})
    other = await each_world.api.post("/v1/tasks", json={"prompt": "another"}, headers={**once, **prefer})
    remains = await each_world.use.db.read(everything)

    for answer in (again, other):
        assert problem(answer, 404, "not_found")["detail"] == "the task of this Idempotency-Key was erased"
    assert (await each_world.api.get("/v1/tasks")).json()["tasks"] == []
    assert PROMPT.encode() not in remains
    assert b"jane@example.com" not in remains

    each_world.clock.advance(86_401)
    anew = await each_world.api.post("/v1/tasks", json=asked, headers=once)
    await each_world.api.post(f"/v1/tasks/{anew.json()['id']}/cancel")
    await erase(each_world, anew.json()["id"])
    problem(await each_world.api.post("/v1/tasks", json=asked, headers=once), 404, "not_found")


async def test_the_idempotency_keys_of_an_end_user_are_erased_at_every_api(each_world: World) -> None:
    asked: dict[str, Any] = {"prompt": PROMPT, "user": "jane"}
    paths = ("/v1/tasks", "/v1/flux-kontext-pro", "/openai/v1/images/generations")
    small(each_world)

    async def post(path: str) -> httpx.Response:
        return await each_world.api.post(path, json=asked, headers={"idempotency-key": f"jane's, at {path}"})

    openai = asyncio.create_task(post(paths[2]))
    for path in paths[:2]:
        assert (await post(path)).status_code in {200, 202}
    while not openai.done():
        await each_world.go_on(1)
        await asyncio.sleep(0.01)
    await each_world.go_on(10)
    assert (await openai).status_code == 200
    assert (await each_world.api.delete("/v1/users/jane")).status_code == 202
    await each_world.go_on(10)
    again = [await post(path) for path in paths]

    assert b"jane's, at" not in await each_world.use.db.read(everything)
    assert (await each_world.api.get("/v1/tasks")).json()["tasks"] == []
    assert [answer.status_code for answer in again] == [404, 200, 404]


async def test_an_erasure_beside_a_repeated_request_leaves_no_second_task(each_world: World) -> None:
    """Whichever transaction is first: the repetition gets the first answer, or 404."""
    once, asked = {"idempotency-key": "once"}, {"prompt": PROMPT}
    for _ in range(10):
        once = {"idempotency-key": f"{once['idempotency-key']}x"}
        first = (await each_world.api.post("/v1/tasks", json=asked, headers=once)).json()["id"]
        await each_world.api.post(f"/v1/tasks/{first}/cancel")
        repeated = [each_world.api.post("/v1/tasks", json=asked, headers=once) for _ in range(4)]
        erased, *answers = await asyncio.gather(each_world.api.delete(f"/v1/tasks/{first}"), *repeated)

        assert erased.status_code == 204
        assert {answer.status_code for answer in answers} <= {202, 404, 409}
        assert {answer.json()["id"] for answer in answers if answer.status_code == 202} <= {first}
        assert (await each_world.api.get("/v1/tasks")).json()["tasks"] == []


class Unsteady(FolderStore):
    """A store that cannot remove anything while it is down."""

    down = True

    async def remove(self, key: str) -> None:
        if self.down:
            raise Unavailable("the image store does not answer")
        await super().remove(key)


async def test_images_are_removed_once_the_store_is_available(each_world: World, tmp_path: Path) -> None:
    store = Unsteady(tmp_path / "images")
    each_world.use = replace(each_world.use, store=store)
    task_id = await stored(each_world, input_image=given())
    await erase(each_world, task_id)
    await each_world.go_on(7200, step=600)  # longer than the tries of a failing job
    while_down = len(files(tmp_path / "images")), await images_still_stored(each_world, task_id)
    store.down = False
    await each_world.go_on(1200, step=600)

    assert while_down == (3, 3)
    assert files(tmp_path / "images") == {}
    assert await images_still_stored(each_world, task_id) == 0


async def test_removing_images_twice_succeeds(each_world: World, tmp_path: Path) -> None:
    """The step may run twice: the process dies after it has removed an image and before it records that."""
    task_id = await stored(each_world)
    kept = files(tmp_path / "images")
    await erase(each_world, task_id)
    for name in kept:
        (tmp_path / "images" / name).unlink()
    await each_world.work()
    again = [NewJob(Step.ERASE, task_id, each_world.clock())]
    await each_world.use.db.write(lambda connection: jobs.enqueue(connection, again))
    await each_world.work()

    assert await each_world.use.db.read(jobs.count_dead_letters) == 0


class Slow(Unsteady):
    """A store that runs a hook before it puts a file below `folder`."""

    down = False
    folder = "results/"
    meanwhile: Any = None

    async def put(self, key: str, source: IO[bytes]) -> None:
        if self.meanwhile is not None and key.startswith(self.folder):
            meanwhile, self.meanwhile = self.meanwhile, None
            await meanwhile()
        await super().put(key, source)


@pytest.mark.parametrize(
    ("place", "number", "erased_by_then"),
    [
        ("DELETE FROM evidence", 1, False),
        ("DELETE FROM tasks", 1, False),
        ("INSERT INTO erased", 1, False),
        (BEFORE_COMMIT, 1, False),
        (AFTER_COMMIT, 1, True),
        (BEFORE_COMMIT, 2, True),
        (AFTER_COMMIT, 2, True),
    ],
)
async def test_a_process_killed_during_an_erasure_has_erased_all_or_nothing(
    each_world: World, tmp_path: Path, place: str, number: int, *, erased_by_then: bool
) -> None:
    alive, task_id = each_world.use, await stored(each_world, input_image=given())
    fuse = Fuse(at=Point("erase", place, number))
    each_world.use = replace(alive, db=FusedDatabase(alive.db, fuse))  # type: ignore[arg-type]

    def unit(connection: Connection) -> None:
        erase_task(connection, task_id, None, each_world.clock())

    async def life() -> None:
        await each_world.use.db.write(unit)
        await each_world.work()

    unit.__module__ = erase_task.__module__  # determines the step of the crash point
    with pytest.raises(Stop):
        await life()
    each_world.use = alive
    there = (await each_world.api.get(f"/v1/tasks/{task_id}")).status_code
    images = len(files(tmp_path / "images"))
    await erase(each_world, task_id)
    each_world.clock.advance(60)
    await loop.start(each_world.use)
    await each_world.work()

    assert there == (404 if erased_by_then else 200)
    assert erased_by_then or images == 3
    assert files(tmp_path / "images") == {}


@pytest.mark.parametrize("folder", ["results/", "thumbnails/"])
async def test_what_is_stored_after_the_erasure_is_removed(each_world: World, tmp_path: Path, folder: str) -> None:
    """A second worker, whose lease has expired, stores the file. Then the store cannot remove it for an hour."""
    store = Slow(tmp_path / "images")
    store.folder = folder
    each_world.use = replace(each_world.use, store=store)
    caller = await submitted(each_world)
    await done(each_world)
    await caller.call(caller.ready())

    async def meanwhile() -> None:
        await collect(each_world.use, caller.task_id)
        await erase(each_world, caller.task_id)
        await each_world.work()
        assert files(tmp_path / "images") == {}
        store.down = True

    store.meanwhile = meanwhile
    await collect(each_world.use, caller.task_id)
    await each_world.go_on(3600, step=600)
    left = len(files(tmp_path / "images"))
    store.down = False
    await each_world.go_on(1200, step=600)

    assert left == 1
    assert files(tmp_path / "images") == {}


async def test_a_spooled_image_of_an_erased_task_is_removed_too(each_world: World, tmp_path: Path) -> None:
    task_id = await stored(each_world)
    caller = await caller_of(each_world, task_id)
    folder = tmp_path / "aside"
    folder.mkdir()
    (folder / f"{caller.attempt_id}.{'0' * 64}").write_bytes(b"a copy")
    await erase(each_world, task_id)
    await store_spooled(each_world.use)

    assert list(folder.iterdir()) == []


async def test_no_webhook_is_sent_for_an_erased_task(each_world: World) -> None:
    heard = receiver(each_world, 500, 200)
    task_id = await stored(each_world, webhook_url=URL)
    (waiting,) = await deliveries(each_world)
    await erase(each_world, task_id)
    await until_due(each_world, waiting)

    assert len(heard.requests) == 1


async def test_a_delivery_during_the_erasure_stores_nothing(each_world: World) -> None:
    heard = receiver(each_world)
    small(each_world)
    task_id = await each_world.post(prompt=PROMPT, webhook_url=URL)
    await each_world.api.post(f"/v1/tasks/{task_id}/cancel")

    async def meanwhile() -> None:
        heard.meanwhile = None
        await erase(each_world, task_id)

    heard.meanwhile = meanwhile
    await each_world.work()

    def attempts(connection: Connection) -> int:
        return int(connection.exec_driver_sql("SELECT count(*) FROM delivery_attempts").scalar_one())

    assert len(heard.requests) == 1
    assert await each_world.use.db.read(attempts) == 0


async def test_an_erasure_beside_the_record_of_a_delivery_leaves_no_answer(tmp_path: Path, postgres_url: str) -> None:
    blocked = text("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted), pg_sleep(0.01)")
    async with open_world(tmp_path, postgres_url) as world, asyncio.timeout(120):
        task_id = await stored(world, webhook_url=URL)
        recorded, erased = asyncio.Event(), asyncio.Event()

        def record(connection: Connection) -> None:
            delivery_id = connection.execute(select(deliveries_table.c.id).limit(1)).scalar_one()
            attempt = DeliveryAttempt("att_1", delivery_id, 500, None, 1, b"the answer", world.use.now())
            delivery_attempts.insert(connection, [attempt])
            recorded.set()
            while not connection.execute(blocked).one()[0] and not erased.is_set():
                pass

        recording = asyncio.create_task(world.use.db.write(record))
        await recorded.wait()
        assert (await erase(world, task_id)).is_success
        erased.set()
        await recording

        left = select(func.count()).select_from(delivery_attempts.delivery_attempts)
        assert await world.use.db.read(lambda connection: connection.execute(left).scalar_one()) == 0
