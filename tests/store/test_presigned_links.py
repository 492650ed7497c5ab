"""With `FLUXHOOK_LINKS=presigned`, links to images lead to the bucket, which a real S3 server checks."""

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from app.db import Connection
from app.db.tables import results
from app.errors import ConfigurationError, StoreUnavailable
from app.rules.retention import Retention
from app.settings import Settings
from app.store.bucket import ObjectStore
from app.worker.retention import prune
from tests.calling import small
from tests.receivers import receiver, stored_with_webhook
from tests.store.buckets import variables
from tests.web.documents import problem
from tests.web.routes.test_deliveries import key_for
from tests.world import GATEWAY, World, open_world


class Silent(ObjectStore):
    """A bucket that cannot sign at present."""

    async def presign(self, key: str, life: timedelta) -> str:
        raise StoreUnavailable(f"{key} cannot be signed for {life}")


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ObjectStore:
    for variable, value in variables("s3", s3).items():
        monkeypatch.setenv(variable, value)
    return ObjectStore(f"s3://pictures/{tmp_path.name}")


@pytest.fixture
async def presigning(tmp_path: Path, sqlite_url: str, bucket: ObjectStore) -> AsyncGenerator[World]:
    """A world whose images are in a bucket, and its links lead there."""
    async with open_world(tmp_path, sqlite_url, store=bucket, presigner=bucket) as world:
        yield world


async def stored(world: World) -> str:
    small(world)
    task_id = await world.post()
    await world.go_on(6)
    assert (await world.task(task_id))["status"] == "stored"
    return task_id


async def fetched(url: str) -> httpx.Response:
    """The answer of the bucket to a request without credentials."""
    async with httpx.AsyncClient(timeout=60) as anybody:
        return await anybody.get(url)


def life_of(url: str) -> int:
    return int(parse_qs(urlsplit(url).query)["X-Amz-Expires"][0])


async def test_the_link_of_an_answer_leads_to_the_bucket(presigning: World, s3: str) -> None:
    task_id = await stored(presigning)
    task = await presigning.task(task_id)
    link = (await presigning.api.get(f"/v1/get_result?id={task_id}")).json()["result"]["sample"]
    image, forged = await fetched(link), await fetched(link.replace("X-Amz-Signature=", "X-Amz-Signature=0"))

    assert link.startswith(s3)
    assert life_of(link) == 7 * 86_400
    assert (image.status_code, len(image.content)) == (200, task["image"]["bytes"])
    assert image.headers["content-type"] == task["image"]["media_type"]
    assert forged.status_code == 403


async def test_the_image_of_a_task_redirects_those_who_may_see_it(presigning: World, s3: str) -> None:
    task_id = await stored(presigning)
    path = f"/v1/tasks/{task_id}/image"
    moved = await presigning.api.get(path)
    image = await fetched(moved.headers["location"])
    others = await key_for(presigning, "other")

    assert (moved.status_code, moved.content) == (302, b"")
    assert moved.headers["location"].startswith(s3)
    assert moved.headers["cache-control"].startswith("private")
    assert life_of(moved.headers["location"]) == 900
    assert image.status_code == 200
    problem(await presigning.outsider.get(path, headers=others), 404, "not_found")
    problem(await presigning.outsider.get(path), 401, "unauthorized")


async def test_a_page_a_head_and_a_condition_are_answered_from_here(presigning: World) -> None:
    path = f"/v1/tasks/{await stored(presigning)}/image"
    shown = await presigning.api.get(path, headers={"sec-fetch-dest": "image"})
    head = await presigning.api.head(path)
    known = await presigning.api.get(path, headers={"if-none-match": shown.headers["etag"]})

    assert [answer.status_code for answer in (shown, head, known)] == [200, 200, 304]


async def test_a_webhook_has_a_link_to_the_bucket(presigning: World, s3: str) -> None:
    application = receiver(presigning, 200)
    await stored_with_webhook(presigning)
    link = json.loads(application.bodies[-1])["result"]["sample"]

    assert link.startswith(s3)
    assert (await fetched(link)).status_code == 200


async def test_a_bucket_that_cannot_sign_leaves_links_that_lead_here(
    tmp_path: Path, sqlite_url: str, bucket: ObjectStore
) -> None:
    silent = Silent(f"s3://pictures/{tmp_path.name}")
    async with open_world(tmp_path, sqlite_url, store=bucket, presigner=silent) as world:
        task_id = await stored(world)
        link = (await world.api.get(f"/v1/get_result?id={task_id}")).json()["result"]["sample"]
        answers = [await world.api.get(f"/v1/tasks/{task_id}/image"), await world.outsider.get(link)]

    assert [answer.status_code for answer in answers] == [200, 200]


async def test_an_image_that_retention_removed_has_no_link_to_the_bucket(presigning: World) -> None:
    task_id = await stored(presigning)
    presigning.clock.advance(2 * 86_400)
    await prune(replace(presigning.use, retention=Retention(images=timedelta(days=1))))
    await presigning.work()
    link = (await presigning.api.get(f"/v1/get_result?id={task_id}")).json()["result"]["sample"]

    problem(await presigning.api.get(f"/v1/tasks/{task_id}/image"), 410, "image_removed")
    problem(await presigning.outsider.get(link), 410, "image_removed")


async def test_an_unverified_image_is_served_from_here(presigning: World) -> None:
    task_id = await stored(presigning)

    def doubt(connection: Connection) -> None:
        connection.execute(results.results.update().values(unverified_image="its end is missing"))

    await presigning.use.db.write(doubt)
    answer = await presigning.api.get(f"/v1/tasks/{task_id}/image")
    link = (await presigning.api.get(f"/v1/get_result?id={task_id}")).json()["result"]["sample"]

    assert answer.status_code == 200
    assert answer.headers["content-disposition"].startswith("attachment")
    assert link.startswith(GATEWAY)


async def test_the_link_of_an_answer_in_openais_form_leads_to_the_bucket(presigning: World, s3: str) -> None:
    small(presigning)
    asked = {"prompt": "a red fox", "model": "flux-kontext-pro", "response_format": "url"}
    posting = asyncio.create_task(presigning.api.post("/openai/v1/images/generations", json=asked))
    while not posting.done():
        await asyncio.sleep(0)
        await presigning.go_on(1)
    link = posting.result().json()["data"][0]["url"]

    assert link.startswith(s3)
    assert (await fetched(link)).status_code == 200


def test_presigned_links_to_a_folder_refuse_the_start() -> None:
    with pytest.raises(ConfigurationError, match="FLUXHOOK_LINKS: presigned links lead to a bucket"):
        Settings.from_env({"FLUXHOOK_LINKS": "presigned", "FLUXHOOK_STORE_URL": "/srv/images"})

    assert (
        Settings.from_env({"FLUXHOOK_LINKS": "presigned", "FLUXHOOK_STORE_URL": "s3://pictures"}).links == "presigned"
    )
