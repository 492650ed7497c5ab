"""The erasure of an end user, and the receipts: complete, repeatable, provable, and safe against crashes."""

import asyncio
import base64
import json
import sqlite3
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from app.db import Connection
from app.db.tables import erasures, task_tags, tasks
from app.db.tables.erasures import NOTHING, following_digest
from app.transitions.erase import erase_user
from app.transitions.tag_users import BATCH, tag_users
from app.worker import loop
from tests.calling import caller_of, everything, small
from tests.pictures import picture
from tests.proof.crash_points import Fuse, FusedDatabase, Stop
from tests.rows import plan_task
from tests.test_collect import files
from tests.web.documents import problem
from tests.web.routes.test_deliveries import key_for
from tests.world import World

USER, PROMPT = "anna/17@example.com", "a fox that must be forgotten"
PATH = "/v1/users/anna%2F17@example.com"


async def stored(world: World, **params: Any) -> str:
    small(world)
    image = base64.b64encode(picture()).decode()
    task_id = await world.post(prompt=PROMPT, user=USER, input_image=image, metadata={"order": "of-anna"}, **params)
    await world.go_on(6)
    assert (await world.task(task_id))["status"] == "stored"
    return task_id


async def receipt_of(world: World, erasure_id: str) -> dict[str, Any]:
    answer = await world.api.get(f"/v1/erasures/{erasure_id}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


async def test_all_tasks_of_a_user_are_erased_with_a_receipt(each_world: World, tmp_path: Path) -> None:
    task_ids = [await stored(each_world) for _ in range(3)]
    other = await each_world.post(prompt="another user's", user="ben")
    digests = [task["image"]["sha256"] for task in [await each_world.task(task_id) for task_id in task_ids]]
    posted = await each_world.api.delete(PATH)
    running = posted.json()
    await each_world.work()

    receipt = await receipt_of(each_world, running["id"])
    assert (posted.status_code, posted.headers["location"]) == (202, f"/v1/erasures/{running['id']}")
    assert (running["state"], running["tasks"]) == ("running", 0)
    assert (receipt["state"], receipt["tasks"], receipt["images"], receipt["kind"]) == ("finished", 3, 6, "user")
    assert [item["task_id"] for item in receipt["removed"]] == task_ids
    assert [item["sha256"][-1] for item in receipt["removed"]] == digests
    assert all(item["images_removed_at"] for item in receipt["removed"])
    assert receipt["remains"].keys() == {"fluxhook", "provider", "backups"}
    listed = (await each_world.api.get("/v1/tasks")).json()["tasks"]
    assert [task["id"] for task in listed] == [other]
    assert files(tmp_path / "images") == {}
    left = await each_world.use.db.read(everything)
    assert not any(text in left for text in (PROMPT.encode(), USER.encode(), b"of-anna"))


async def test_a_receipt_is_signed_with_a_published_key(each_world: World) -> None:
    await stored(each_world)
    receipt = (await each_world.api.delete(PATH)).json()
    await each_world.work()
    receipt = await receipt_of(each_world, receipt["id"])
    (published,) = (await each_world.api.get("/v1/erasures/keys")).json()["keys"]

    signature, statement = receipt["signature"], receipt["statement"]
    key = Ed25519PublicKey.from_public_bytes(unpadded(published["public_key"]))
    key.verify(unpadded(signature["value"]), statement.encode())
    with pytest.raises(InvalidSignature):
        key.verify(unpadded(signature["value"]), statement.replace("finished", "running").encode())
    assert (signature["key_id"], signature["public_key"]) == (published["id"], published["public_key"])
    facts = json.loads(statement)
    assert {name: facts[name] for name in ("id", "state", "tasks", "digest", "remains")} == {
        name: receipt[name] for name in ("id", "state", "tasks", "digest", "remains")
    }
    (item,) = receipt["removed"]
    assert facts["digest"] == following_digest(NOTHING, item["task_id"], item["sha256"])


async def test_open_tasks_are_cancelled_or_erased_when_they_end_and_a_late_callback_brings_nothing_back(
    each_world: World, tmp_path: Path
) -> None:
    small(each_world)
    sent = await each_world.post(prompt=PROMPT, user=USER)
    await each_world.go_on(1)
    assert (await each_world.task(sent))["status"] == "submitted"
    waiting = [await each_world.post(prompt=PROMPT, user=USER) for _ in range(2)]
    erasure_id = (await each_world.api.delete(PATH)).json()["id"]
    each_world.clock.advance(0.001)
    later = await each_world.post(prompt="posted later", user=USER)
    await each_world.work()
    during = await receipt_of(each_world, erasure_id)
    caller = await caller_of(each_world, sent)
    await each_world.go_on(60, 2)
    answer = await caller.call(caller.ready())
    await each_world.go_on(60, 5)

    receipt = await receipt_of(each_world, erasure_id)
    assert during["state"] == "running"
    assert (receipt["state"], {item["task_id"] for item in receipt["removed"]}) == ("finished", {sent, *waiting})
    assert answer.status_code == 404
    assert (await each_world.task(later))["user"] == USER
    assert len(files(tmp_path / "images")) == 2  # of the later task, with its thumbnail


async def test_a_repeated_request_gets_the_same_receipt(each_world: World) -> None:
    await stored(each_world)
    first = (await each_world.api.delete(PATH)).json()
    second = await each_world.api.delete(PATH)
    await each_world.work()
    third = await each_world.api.delete(PATH)
    records = (await each_world.api.get("/v1/audit")).json()["records"]

    assert (second.status_code, second.json()["id"]) == (202, first["id"])
    assert (third.status_code, third.json()["id"], third.json()["state"]) == (200, first["id"], "finished")
    assert [(record["action"], record["subject"]) for record in records] == [("user.erased", first["id"])]
    await each_world.post(user=USER)
    assert (await each_world.api.delete(PATH)).json()["id"] != first["id"]


async def test_a_user_without_tasks_and_a_foreign_one_are_not_found(world: World) -> None:
    shop, other = await key_for(world, "shop"), await key_for(world, "other")
    posted = await world.outsider.post("/v1/tasks", json={"prompt": PROMPT, "user": USER}, headers=shop)

    problem(await world.outsider.delete(PATH, headers=other), 404, "not_found")
    problem(await world.api.delete(PATH), 404, "not_found")
    problem(await world.api.delete("/v1/users/%00"), 404, "not_found")
    problem(await world.outsider.delete(f"{PATH}?application_id=app_admin", headers=shop), 404, "not_found")
    done = await world.outsider.delete(PATH, headers=shop)
    path = done.headers["location"]
    assert posted.status_code == done.status_code == 202
    assert done.json()["application_id"] != "app_admin"
    problem(await world.outsider.get(path, headers=other), 404, "not_found")
    assert (await world.outsider.get(path, headers=shop)).status_code == 200
    assert (await world.outsider.get("/v1/erasures", headers=other)).json()["erasures"] == []
    assert len((await world.api.get("/v1/erasures")).json()["erasures"]) == 1


async def test_an_erased_task_has_a_receipt_too(each_world: World) -> None:
    task_id = await stored(each_world)
    erased = await each_world.api.delete(f"/v1/tasks/{task_id}")
    again = await each_world.api.delete(f"/v1/tasks/{task_id}", headers={"prefer": "return=representation"})
    before = again.json()
    await each_world.work()
    receipt = (await each_world.api.get(erased.headers["location"])).json()

    assert (erased.status_code, erased.content) == (204, b"")
    assert (again.status_code, again.headers["preference-applied"]) == (200, "return=representation")
    assert (before["id"], before["state"], before["subject"]) == (receipt["id"], "running", task_id)
    assert (receipt["state"], receipt["tasks"], receipt["images"]) == ("finished", 1, 2)


@dataclass
class Counting(Fuse):
    """A fuse that blows at a point of the erasure, counted over all places."""

    points_left: int = 0

    def point(self, step: str, place: str) -> None:
        if not self.armed:
            return
        self.points_left -= step == "erase"
        self.blown = self.blown or not self.points_left
        super().point(step, place)


async def test_after_crashes_at_any_points_the_next_start_completes_a_users_erasure(
    each_world: World, tmp_path: Path
) -> None:
    """Each life ends one point later than the one before, until one reaches the end."""
    alive = each_world.use
    for _ in range(2):
        await stored(each_world)
    waiting = await each_world.post(prompt=PROMPT, user=USER)
    erasure_id = (await each_world.api.delete(PATH)).json()["id"]
    lives, is_finished = 0, False
    while not is_finished:
        lives += 1
        fuse = Counting(points_left=lives)
        each_world.use = replace(alive, db=FusedDatabase(alive.db, fuse))  # type: ignore[arg-type]
        each_world.clock.advance(40)
        await loop.start(alive)
        with suppress(Stop):
            await each_world.work()
        fuse.armed = False
        erasure = await alive.db.read(erasures.get, erasure_id)
        is_finished = erasure is not None and erasure.finished_at is not None
    each_world.use = alive

    receipt = await receipt_of(each_world, erasure_id)
    assert lives > 10
    assert (receipt["tasks"], receipt["images"]) == (3, 4)
    assert waiting in {item["task_id"] for item in receipt["removed"]}
    assert files(tmp_path / "images") == {}


async def test_nothing_of_an_erased_task_is_left_in_the_files_of_sqlite(world: World, tmp_path: Path) -> None:
    await stored(world)
    await world.api.delete(PATH)
    await world.work()

    def bytes_after_a_checkpoint() -> bytes:
        with sqlite3.connect(tmp_path / "fluxhook.db") as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        return b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())

    left = await asyncio.to_thread(bytes_after_a_checkpoint)
    assert not any(text in left for text in (PROMPT.encode(), USER.encode(), b"of-anna"))


async def as_an_earlier_version(world: World, task_id: str) -> None:
    """Record the end user of a task as versions before tags did: among its parameters."""

    def change(connection: Connection) -> None:
        task = tasks.get(connection, task_id)
        assert task is not None
        request = {**task.request.as_json(), "user": task.user}
        table = tasks.tasks
        connection.execute(table.update().where(table.c.id == task_id).values(user=None, request=request))
        task_tags.remove(connection, task.application_id, task_id, [task_tags.of_user(task.user or "")])

    await world.use.db.write(change)


async def test_tasks_of_versions_without_tags_are_erased_too(each_world: World) -> None:
    old = [await stored(each_world) for _ in range(2)]
    other = await each_world.post(prompt="another user's", user="ben")
    for task_id in (*old, other):
        await as_an_earlier_version(each_world, task_id)
    each_world.clock.advance(3600)
    posted = await each_world.api.delete(PATH)
    await each_world.work()
    receipt = await receipt_of(each_world, posted.json()["id"])

    assert (posted.status_code, receipt["state"], receipt["tasks"]) == (202, "finished", 2)
    assert PROMPT.encode() not in await each_world.use.db.read(everything)
    assert (await each_world.task(other))["user"] == "ben"


async def test_the_sweep_tags_tasks_of_earlier_versions_in_batches(each_world: World) -> None:
    old = [await stored(each_world) for _ in range(3)]
    without = await each_world.post()
    for task_id in old:
        await as_an_earlier_version(each_world, task_id)
    each_world.clock.advance(3600)
    complete = [await each_world.use.db.write(tag_users, each_world.clock.at, 2) for _ in range(3)]
    found = (await each_world.api.get("/v1/tasks", params={"user": USER})).json()["tasks"]

    assert complete == [False, False, True]
    assert {task["id"] for task in found} == set(old)
    assert (await each_world.task(without))["user"] is None


async def test_a_user_is_unknown_only_once_all_old_tasks_were_examined(each_world: World) -> None:
    await as_an_earlier_version(each_world, await stored(each_world))
    each_world.clock.advance(3600)

    def add(connection: Connection) -> None:
        for number in range(BATCH):
            plan_task(connection, f"0000{number:04}")

    await each_world.use.db.write(add)
    running = await each_world.api.delete("/v1/users/never")
    await erase_user(each_world.use, running.json()["id"])
    receipt = await receipt_of(each_world, running.json()["id"])

    assert (running.status_code, receipt["tasks"], receipt["state"]) == (202, 0, "finished")
    problem(await each_world.api.delete("/v1/users/other"), 404, "not_found")
