import asyncio
import gzip
import hashlib
import json
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_network
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
from app.provider import ProviderResponse, messages
from app.rules.task import Report, Said
from app.security.http_clients import results_client
from app.settings import Settings
from app.telemetry import metrics
from app.transitions import result_state
from app.twin import Faults
from app.wiring import result_hosts
from tests.calling import Caller, answering, submitted
from tests.downloads import downloads_from, look_up
from tests.pictures import claims, large_profile, picture, with_chunk
from tests.world import TWIN, World, with_provider


async def ready(world: World, *, faults: Faults | None = None, **params: Any) -> Caller:
    """A ready task whose result has not been collected."""
    caller = await submitted(world, faults=faults, **params)
    world.clock.advance(3)
    await world.twin.tick()
    await caller.call(caller.ready())
    return caller


def serving(world: World, answer: Callable[[httpx.Request], httpx.Response]) -> None:
    """Answer every download with this application from now on."""
    world.use = replace(world.use, results=downloads_from(answer, TWIN))


def files(folder: Path) -> dict[str, bytes]:
    """All files below a folder, by name, except databases."""
    found = [path for path in folder.rglob("*") if path.is_file() and ".db" not in path.name]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def failures(cause: str) -> float:
    return metrics.REGISTRY.get_sample_value("fluxhook_downloads_failed_total", {"cause": cause}) or 0


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

    assert set(kept) == {result.store_key, results.thumbnail_key(result.store_key)}
    assert hashlib.sha256(kept[result.store_key]).hexdigest() == result.sha256


AZURE = "https://bfldeliverysc.blob.core.windows.net/results/x/sample.jpeg?se=2026-01-01T12%3A10%3A00Z&sp=r&sig=x"


def recording(world: World, *answers: httpx.Response) -> list[httpx.Request]:
    """Give these answers to downloads, the last one again and again; return the requests."""
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return answers[min(len(asked), len(answers)) - 1]

    serving(world, answer)
    return asked


def image() -> httpx.Response:
    return httpx.Response(200, content=pieces(picture()))


def redirect(location: str) -> httpx.Response:
    return httpx.Response(302, headers={"location": location})


@pytest.mark.parametrize(
    ("link", "reason"),
    [
        ("http://delivery.eu1.bfl.ai/x.png", "the link on delivery.eu1.bfl.ai is not https"),
        ("https://user@delivery.eu1.bfl.ai/x.png", "the link is not a usable http(s) URL"),
        ("http://169.254.169.254/latest/meta-data", "the link on 169.254.169.254 is not https"),
        ("https://169.254.169.254/x.png", "the link's host 169.254.169.254 is unknown, or its address is not public"),
        (
            "https://intranet.internal/x.png",
            "the link's host intranet.internal is unknown, or its address is not public",
        ),
        ("http://twin:81/x.png", "the link on twin is not https"),
        ("file:///etc/passwd", "the link is not a usable http(s) URL"),
    ],
    ids=lambda value: value[:40],
)
@pytest.mark.parametrize("redirected", [False, True], ids=["given", "redirected"])
async def test_a_link_that_is_not_public_and_https_is_never_requested(
    world: World, link: str, reason: str, *, redirected: bool
) -> None:
    caller = await submitted(world)
    await link_is(caller, AZURE if redirected else link)
    asked = recording(world, redirect(link) if redirected else image())
    await collect(world.use, caller.task_id)

    assert len(asked) == redirected
    assert await downloads(world, caller) == [("failed", reason)]


@pytest.mark.parametrize(
    "link",
    ["https://delivery.eu1.bfl.ai/x.png", "https://delivery-us1.bfl.ai/x.png", AZURE, "https://cdn.example:8443/x"],
)
@pytest.mark.parametrize("witness", ["callback", "poll"])
async def test_a_link_of_the_provider_may_lie_on_any_public_host(world: World, link: str, witness: str) -> None:
    body = {"id": "p1", "status": "Ready", "result": {"sample": link}}
    provider = answering(ProviderResponse(Report(Said.PENDING, provider_id="p1"), 200, {}, b"{}"))
    provider.fetched = ProviderResponse(messages.read_status(json.dumps(body).encode()), 200, {}, b"{}")
    world.use = with_provider(world.use, provider)
    caller = await submitted(world)
    asked = recording(world, image())
    if witness == "callback":
        await caller.call(body)
        await world.work()
    else:
        await world.go_on(30)

    assert (await world.task(caller.task_id))["status"] == "stored"
    assert [str(request.url) for request in asked] == [link]


@pytest.mark.parametrize("proof", [{}, {"x-bfl-signature": "sha256=00"}], ids=["none", "forged"])
async def test_a_link_without_proof_is_never_requested(world: World, proof: dict[str, str]) -> None:
    caller = await submitted(world)
    body = caller.ready()
    body["result"]["sample"] = AZURE
    await caller.call(body, proof)
    asked = recording(world, image())
    await world.go_on(60, 5)

    assert (await world.task(caller.task_id))["status"] == "stored"
    assert [request.url.host for request in asked] == ["twin"]


@pytest.mark.parametrize(
    ("link", "status"), [(AZURE, "stored"), ("https://cdn.example/x", "stored"), ("https://other.example/x", "ready")]
)
async def test_a_list_of_hosts_is_the_only_other_place_for_results(world: World, link: str, status: str) -> None:
    settings = Settings.from_env({"FLUXHOOK_RESULT_HOSTS": "cdn.example"})
    world.use = replace(world.use, result_hosts=result_hosts(settings, world.use.accounts))
    caller = await submitted(world)
    await link_is(caller, link)
    asked = recording(world, image())
    await collect(world.use, caller.task_id)

    assert (await world.task(caller.task_id))["status"] == status
    assert len(asked) == (status == "stored")


async def test_a_link_on_a_host_that_is_not_listed_is_replaced_by_a_fresh_one(world: World) -> None:
    world.use = replace(world.use, result_hosts=("cdn.example",))
    caller = await submitted(world)
    world.clock.advance(3)
    await link_is(caller, AZURE)
    await world.go_on(3)

    # Both happen at one instant of the clock.
    assert sorted(await downloads(world, caller)) == [
        ("failed", "the link is on bfldeliverysc.blob.core.windows.net, which FLUXHOOK_RESULT_HOSTS does not list"),
        ("stored", None),
    ]


async def test_without_a_list_results_may_come_from_any_host(world: World) -> None:
    assert result_hosts(Settings.from_env({}), world.use.accounts) == ()


async def test_a_network_that_the_operator_lists_may_hold_results(world: World) -> None:
    caller = await submitted(world)
    await link_is(caller, "http://10.1.2.3/x.png")
    client = results_client(httpx.MockTransport(lambda _: image()), allowed=[ip_network("10.0.0.0/8")], resolve=look_up)
    world.use = replace(world.use, results=client)
    await collect(world.use, caller.task_id)

    assert (await world.task(caller.task_id))["status"] == "stored"


async def test_no_key_of_ours_goes_to_the_delivery_host(world: World) -> None:
    caller = await ready(world)
    asked = recording(world, redirect("https://delivery.eu1.bfl.ai/x.png"), image())
    await collect(world.use, caller.task_id)

    assert len(asked) == 2
    assert not {"x-key", "authorization", "cookie"} & {name for request in asked for name in request.headers}


async def test_up_to_three_redirects_of_a_download_are_followed(world: World) -> None:
    caller = await ready(world)
    steps = ["https://delivery.eu1.bfl.ai/1", "/2", "https://cdn.example/3"]
    asked = recording(world, *map(redirect, steps), image())
    await collect(world.use, caller.task_id)

    assert await downloads(world, caller) == [("stored", None)]
    assert [str(request.url) for request in asked[1:]] == [steps[0], "https://delivery.eu1.bfl.ai/2", steps[2]]


async def test_a_download_that_is_redirected_without_end_fails(world: World) -> None:
    caller = await ready(world)
    asked = recording(world, redirect("https://delivery.eu1.bfl.ai/again"))
    await collect(world.use, caller.task_id)

    assert len(asked) == 4
    assert await downloads(world, caller) == [("failed", "the link redirects more than 3 times")]


async def test_a_redirect_without_a_location_is_an_answer_like_any_other(world: World) -> None:
    caller = await ready(world)
    recording(world, httpx.Response(302))
    await collect(world.use, caller.task_id)

    assert await downloads(world, caller) == [("failed", "the link answered with HTTP 302")]


@pytest.mark.parametrize(
    ("origin", "redirects"), [("https://bfldeliverysc.blob.core.windows.net", 0), ("https://cdn.example", 3)]
)
async def test_results_on_a_host_of_another_cloud_are_stored(each_world: World, origin: str, redirects: int) -> None:
    rules = {"delivery_origin": origin, "delivery_redirects": redirects, "redirect_origin": "https://regional.example"}
    each_world.twin.rules = each_world.twin.rules.model_copy(update=rules)
    for host in (httpx.URL(origin).host, "regional.example"):
        each_world.network.hosts[host] = each_world.network.hosts["twin"]
    task_id = await each_world.post()
    await each_world.go_on(10)
    image = (await each_world.task(task_id))["image"]

    assert image["sha256"] == each_world.ledger()["tasks"][0]["sha256"]


async def test_the_first_failed_download_is_logged_counted_and_noted(each_world: World) -> None:
    caller = await submitted(each_world)
    await link_is(caller, "https://intranet.internal/x.png")
    before = failures("refused")
    with capture_logs() as logs:
        await collect(each_world.use, caller.task_id)
    answer = (await each_world.api.get("/readyz")).json()
    reason = "the link's host intranet.internal is unknown, or its address is not public"
    warnings = [line for line in logs if line["event"] == "download_failed"]

    assert [(line["log_level"], line["task_id"], line["reason"]) for line in warnings] == [
        ("warning", caller.task_id, reason)
    ]
    assert failures("refused") == before + 1
    assert answer["status"] == "ready"
    assert answer["notes"] == [f"the result of {caller.task_id} cannot be downloaded yet: {reason}"]


async def test_a_note_counts_the_results_that_cannot_be_downloaded(each_world: World) -> None:
    callers = [await submitted(each_world) for _ in range(3)]
    for caller in callers:
        await caller.call({"status": "Ready", "result": {"sample": "https://intranet.internal/x.png"}})
        each_world.clock.advance(1)
        await collect(each_world.use, caller.task_id)
    (note,) = (await each_world.api.get("/readyz")).json()["notes"]

    assert note.startswith(f"3 results cannot be downloaded yet, the latest of {callers[-1].task_id}: the link's host")


@pytest.mark.parametrize("length", [True, False])
async def test_a_result_that_is_compressed_unasked_is_unpacked(world: World, *, length: bool) -> None:
    packed = gzip.compress(picture())
    headers = {"content-length": str(len(packed))} if length else {"transfer-encoding": "chunked"}
    caller = await ready(world)
    serving(world, lambda _: httpx.Response(200, headers={**headers, "content-encoding": "gzip"}, stream=Body(packed)))
    await collect(world.use, caller.task_id)

    assert (await world.task(caller.task_id))["image"]["bytes"] == len(picture())
    assert await downloads(world, caller) == [("stored", None)]


async def test_the_note_about_failing_downloads_ends_with_them(world: World) -> None:
    caller = await ready(world)
    good = world.use
    recording(world, httpx.Response(503))
    await collect(world.use, caller.task_id)
    during = (await world.api.get("/readyz")).json()["notes"]
    world.use = good
    await world.go_on(40, 5)

    assert len(during) == 1
    assert (await world.task(caller.task_id))["status"] == "stored"
    assert (await world.api.get("/readyz")).json()["notes"] == []


async def endless() -> AsyncGenerator[bytes]:
    while True:
        yield bytes(4 * 1024 * 1024)


async def pieces(data: bytes) -> AsyncGenerator[bytes]:
    yield data


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<html>not here</html>", "the link delivered text or nothing, not an image"),
        (b'{"detail": "expired"}', "the link delivered text or nothing, not an image"),
        (b"", "the link delivered text or nothing, not an image"),
        (endless, "larger than 64 MB"),
    ],
    ids=["html", "json", "nothing", "endless"],
)
async def test_what_is_no_image_or_has_no_end_is_not_kept(
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


class Body(httpx.AsyncByteStream):
    """The body of a response whose headers a test chooses."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        yield self._data


METADATA = "its pixels are complete, but its metadata is damaged or too large to be read"
NOT_KNOWN = "not a JPEG, PNG or WebP image"


@pytest.mark.parametrize(
    ("content", "shown", "reason"),
    [
        (large_profile(), ("image/png", 320, 256), METADATA),
        (with_chunk(b"tEXt", b"key\0value", damaged=True), ("image/png", 320, 256), METADATA),
        (picture(form="JPEG")[:-2], ("image/jpeg", 320, 256), "its end marker is missing, so it may be cut off"),
        (picture()[:-40], ("image/png", 320, 256), "the image is cut off or damaged"),
        (claims(20_000, 20_000), ("image/png", 20_000, 20_000), "20000x20000 is more than 50000000 pixels"),
        (picture(form="GIF"), ("application/octet-stream", None, None), NOT_KNOWN),
    ],
    ids=["profile", "checksum", "end marker", "cut", "bomb", "gif"],
)
@pytest.mark.parametrize("chunked", [True, False])
async def test_a_whole_result_that_cannot_be_verified_is_stored_with_the_reason(
    world: World, content: bytes, shown: tuple[str, int | None, int | None], reason: str, *, chunked: bool
) -> None:
    caller = await ready(world)
    before = metrics.REGISTRY.get_sample_value("fluxhook_images_unverified_total") or 0
    headers = {"transfer-encoding": "chunked"} if chunked else {"content-length": str(len(content))}
    serving(world, lambda _: httpx.Response(200, headers=headers, stream=Body(content)))
    with capture_logs() as logs:
        await collect(world.use, caller.task_id)
    image = (await world.task(caller.task_id))["image"]
    served = await world.api.get(image["url"])
    warnings = [line for line in logs if line["event"] == "unverified_image"]

    assert (image["media_type"], image["width"], image["height"]) == shown
    assert image["unverified_image"] == reason
    assert await downloads(world, caller) == [("stored", f"unverified: {reason}")]
    assert (served.content, served.headers["content-type"]) == (content, shown[0])
    assert [(line["log_level"], line["task_id"], line["reason"]) for line in warnings] == [
        ("warning", caller.task_id, reason)
    ]
    assert metrics.REGISTRY.get_sample_value("fluxhook_images_unverified_total") == before + 1


async def test_an_odd_result_of_the_provider_is_stored_byte_for_byte(each_world: World) -> None:
    caller = await ready(each_world)
    each_world.twin.gallery.file = large_profile()
    await each_world.work()
    image = (await each_world.task(caller.task_id))["image"]

    assert image["sha256"] == each_world.ledger()["tasks"][0]["sha256"]
    assert image["unverified_image"] == METADATA


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"content-length": "100000"}, "the download ended after 20 of 100000 bytes"),
        (
            {},
            "the result is not a whole image: not a JPEG, PNG or WebP image (20 bytes, SHA-256 de47c9b27eb8d300)",
        ),
    ],
    ids=["too short", "length unknown"],
)
async def test_a_result_that_may_have_been_cut_off_in_transit_is_downloaded_again(
    world: World, headers: dict[str, str], reason: str
) -> None:
    caller = await ready(world)
    good = world.use
    serving(world, lambda _: httpx.Response(200, headers=headers, stream=Body(bytes(20))))
    await collect(world.use, caller.task_id)
    world.use = good
    await world.go_on(40, 5)

    assert await downloads(world, caller) == [("failed", reason), ("stored", None)]
    assert (await world.task(caller.task_id))["image"]["unverified_image"] is None


@pytest.mark.parametrize("content", [large_profile(), picture(form="JPEG")[:-2]], ids=["profile", "end marker"])
async def test_the_same_odd_bytes_twice_without_a_stated_length_are_stored(world: World, content: bytes) -> None:
    caller = await ready(world)
    serving(world, lambda _: httpx.Response(200, stream=Body(content)))
    await collect(world.use, caller.task_id)
    await collect(world.use, caller.task_id)
    image = (await world.task(caller.task_id))["image"]

    assert sorted(status for status, _ in await downloads(world, caller)) == ["failed", "stored"]
    assert image["unverified_image"] is not None
    assert (await world.api.get(image["url"])).content == content


async def test_a_whole_image_without_a_stated_length_is_stored(world: World) -> None:
    caller = await ready(world)
    serving(world, lambda _: httpx.Response(200, stream=Body(picture())))
    await collect(world.use, caller.task_id)

    assert await downloads(world, caller) == [("stored", None)]


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
    await link_is(caller, "https://intranet.internal/x.png")
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
