import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from app.collect import collect
from app.db import Connection
from app.db.tables import results, tasks
from app.images.download import Image
from app.images.inspect import ImageInfo
from app.security.http_clients import results_client
from app.transitions import result_state
from app.twin import Faults
from tests.calling import Caller, submitted
from tests.pictures import claims, picture
from tests.world import World


async def ready(world: World, *, faults: Faults | None = None, **params: Any) -> Caller:
    """A ready task whose result has not been collected."""
    caller = await submitted(world, faults=faults, **params)
    world.clock.advance(3)
    await world.twin.tick()
    await caller.call(caller.ready())
    return caller


def serving(world: World, answer: Callable[[httpx.Request], httpx.Response]) -> None:
    """Answer every download with this application from now on."""
    world.use = replace(world.use, results=results_client(httpx.MockTransport(answer)))


def files(folder: Path) -> dict[str, bytes]:
    """All files below a folder, by name, except databases."""
    found = [path for path in folder.rglob("*") if path.is_file() and ".db" not in path.name]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


async def downloads(world: World, caller: Caller) -> list[tuple[str, str | None]]:
    return [(entry["outcome"], entry["detail"]) for entry in await world.timeline(caller.task_id, "download")]


async def link_is(caller: Caller, sample: str) -> None:
    """A signed callback with this link."""
    body = caller.ready()
    body["result"]["sample"] = sample
    await caller.call(body)


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
async def test_the_stored_image_has_the_digest_of_the_provider(world: World, output_format: str) -> None:
    caller = await ready(world, output_format=output_format, aspect_ratio="2:1")
    await world.work()
    image = (await world.task(caller.task_id))["image"]
    served = await world.api.get(image["url"])

    assert image["sha256"] == hashlib.sha256(served.content).hexdigest() == world.ledger()["tasks"][0]["sha256"]
    assert image["media_type"] == f"image/{output_format}"
    assert image["bytes"] == len(served.content)
    assert (image["width"], image["height"]) == (208, 96)


async def test_a_task_is_stored_only_when_its_bytes_are_on_disk(each_world: World, tmp_path: Path) -> None:
    caller = await ready(each_world)
    await each_world.work()
    found = await each_world.use.db.read(lambda connection: results.of_tasks(connection, [caller.task_id]))
    result = found[caller.task_id]
    kept = files(tmp_path / "images")

    assert list(kept) == [result.store_key]
    assert hashlib.sha256(kept[result.store_key]).hexdigest() == result.sha256


@pytest.mark.parametrize(
    "link",
    [
        "https://evil.example/x.png",
        "http://delivery.eu1.bfl.ai/x.png",
        "https://bfl.ai.evil.example/x.png",
        "https://user@delivery.eu1.bfl.ai/x.png",
        "http://169.254.169.254/latest/meta-data",
        "http://twin:81/x.png",
        "file:///etc/passwd",
        "//bfl.ai/x.png",
    ],
)
async def test_a_link_to_another_host_is_never_requested(world: World, link: str) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(200, content=picture())

    caller = await submitted(world)
    await link_is(caller, link)
    serving(world, answer)
    await collect(world.use, caller.task_id)

    assert asked == []
    assert "not on an allowed result host" in str(await downloads(world, caller))


@pytest.mark.parametrize("host", ["delivery.eu1.bfl.ai", "delivery-us1.bfl.ai", "cdn.example"])
async def test_links_on_the_providers_hosts_and_configured_ones_are_collected(world: World, host: str) -> None:
    world.use = replace(world.use, result_hosts=(*world.use.result_hosts, "cdn.example"))
    caller = await submitted(world)
    await link_is(caller, f"https://{host}/x.png")
    serving(world, lambda _: httpx.Response(200, content=pieces(picture())))
    await collect(world.use, caller.task_id)

    assert (await world.task(caller.task_id))["status"] == "stored"


async def test_no_key_is_sent_to_the_delivery_host_and_no_redirect_is_followed(world: World) -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(302, headers={"location": "http://169.254.169.254/"})

    caller = await ready(world)
    serving(world, answer)
    await collect(world.use, caller.task_id)

    assert len(seen) == 1
    assert not {"x-key", "authorization", "cookie"} & set(seen[0].headers)
    assert await downloads(world, caller) == [("failed", "the link answered with HTTP 302")]


async def endless() -> AsyncGenerator[bytes]:
    while True:
        yield bytes(4 * 1024 * 1024)


async def pieces(data: bytes) -> AsyncGenerator[bytes]:
    yield data


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<html>not here</html>", "not a JPEG, PNG or WebP"),
        (b"", "not a JPEG, PNG or WebP"),
        (picture()[:-40], "cut off or damaged"),
        (claims(20_000, 20_000), "more than 50000000 pixels"),
        (endless, "larger than 64 MB"),
    ],
    ids=["html", "nothing", "cut", "bomb", "endless"],
)
async def test_a_download_that_is_no_complete_image_of_valid_size_is_not_stored(
    world: World, content: Any, reason: str, tmp_path: Path
) -> None:
    caller = await ready(world)
    before = files(tmp_path)
    serving(world, lambda _: httpx.Response(200, content=content() if callable(content) else pieces(content)))
    await collect(world.use, caller.task_id)
    ((outcome, detail),) = await downloads(world, caller)

    assert (await world.task(caller.task_id))["status"] == "ready"
    assert outcome == "failed"
    assert reason in str(detail)
    assert files(tmp_path) == before


@pytest.mark.parametrize("fault", ["truncated_body", "refused_link"])
async def test_a_failed_download_is_retried(each_world: World, fault: str) -> None:
    caller = await ready(each_world, faults=Faults.model_validate({fault: 1, "drop_callback": 1}))
    await each_world.work()
    before = (await each_world.task(caller.task_id))["status"]
    await each_world.go_on(3)

    assert before == "ready"
    assert (await each_world.task(caller.task_id))["status"] == "stored"
    assert [outcome for outcome, _ in await downloads(each_world, caller)] == ["failed", "stored"]


async def test_a_link_that_is_valid_for_seconds_is_collected_in_time(world: World) -> None:
    caller = await ready(world, faults=Faults(expired_link=1, near_expiry_s=5, drop_callback=1))
    await world.work()

    assert (await world.task(caller.task_id))["status"] == "stored"


async def test_an_image_whose_link_has_expired_is_lost_and_logged_as_an_error(each_world: World) -> None:
    caller = await ready(each_world)
    serving(each_world, lambda _: httpx.Response(403))
    with capture_logs() as logs:
        await each_world.go_on(600, 10)
        before = (await each_world.task(caller.task_id))["status"]
        await each_world.go_on(120, 10)
    task = await each_world.task(caller.task_id)
    lost = [line for line in logs if line["event"] == "asset_lost"]

    assert before == "ready"
    assert (task["failure"]["code"], task["failure"]["money_spent"]) == ("asset_lost", "yes")
    assert [(line["log_level"], line["task_id"]) for line in lost] == [("error", caller.task_id)]


async def test_a_fresh_link_replaces_a_broken_one(world: World) -> None:
    caller = await submitted(world)
    world.clock.advance(3)
    await link_is(caller, "https://evil.example/x.png")
    await world.go_on(3)

    assert (await world.task(caller.task_id))["status"] == "stored"


async def test_collecting_twice_stores_once(world: World) -> None:
    caller = await ready(world)
    await asyncio.gather(*(collect(world.use, caller.task_id) for _ in range(3)))
    await collect(world.use, caller.task_id)

    assert (await world.task(caller.task_id))["status"] == "stored"
    assert await downloads(world, caller) == [("stored", None)]


async def test_a_task_that_is_not_ready_is_not_collected(world: World) -> None:
    caller = await submitted(world)
    await collect(world.use, caller.task_id)
    await collect(world.use, "task_none")

    assert await downloads(world, caller) == []


async def test_a_missing_download_folder_is_retried_until_the_image_is_lost(world: World, tmp_path: Path) -> None:
    caller = await ready(world)
    world.use = replace(world.use, scratch=tmp_path / "not-there")
    await world.go_on(5)
    tried = await downloads(world, caller)
    await world.go_on(720, 20)

    assert tried[0] == ("failed", "the download failed: FileNotFoundError")
    assert (await world.task(caller.task_id))["failure"]["code"] == "asset_lost"


async def test_a_broken_connection_is_a_failed_download(world: World) -> None:
    def broken(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("slow", request=request)

    caller = await ready(world)
    serving(world, broken)
    await collect(world.use, caller.task_id)

    assert await downloads(world, caller) == [("failed", "the download failed: ReadTimeout")]


async def test_waits_between_downloads_grow_but_stay_short_compared_to_the_link_lifetime(world: World) -> None:
    caller = await ready(world)
    serving(world, lambda _: httpx.Response(403))
    await world.go_on(600)
    tries = len(await downloads(world, caller))

    assert 600 / timedelta(seconds=25).total_seconds() - 2 <= tries <= 600 / 20 + 6


async def test_the_image_of_an_earlier_attempt_is_not_recorded_as_the_result(each_world: World) -> None:
    caller = await ready(each_world)
    image = Image("results/ab/ab.png", "ab", 3, ImageInfo("image/png", 2, 1))

    def another_attempt(connection: Connection) -> None:
        task = tasks.get(connection, caller.task_id)
        assert task is not None
        change = tasks.tasks.update().where(tasks.tasks.c.id == task.id)
        connection.execute(change.values(attempt_id="sub_2"))
        result_state.store(connection, task, image, each_world.clock(), each_world.clock())
        connection.execute(change.values(attempt_id=task.attempt_id))

    await each_world.use.db.write(another_attempt)

    assert (await each_world.task(caller.task_id))["status"] == "ready"
    assert await downloads(each_world, caller) == []
