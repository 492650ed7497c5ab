"""Input images of a task: damaged ones cost nothing, and what a provider may do with an image is said."""

import asyncio
import threading
from collections.abc import AsyncGenerator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from app.images import check
from app.rules.weighted_semaphore import WeightedSemaphore
from tests.pictures import black, in_base64, photo, picture
from tests.web.documents import kept_files, nothing_recorded, problem
from tests.world import World, open_world

JPEG = photo()
SMALL = Image.new("RGB", (9, 9))
ANIMATED: dict[str, Any] = {"save_all": True, "append_images": [Image.new("RGB", (320, 256), "red")]}
DAMAGED = "the image is cut off or damaged"
OTHER_FORMATS = {
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100),
    "AVIF": picture(form="AVIF"),
    "GIF": picture(form="GIF"),
    "BMP": picture(form="BMP"),
    "TIFF": picture(form="TIFF"),
    "PDF": picture(form="PDF"),
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
}


async def post_file(world: World, data: bytes, **fields: Any) -> httpx.Response:
    return await world.api.post("/v1/tasks", data={"prompt": "a fox", **fields}, files={"input_image": data})


async def post_json(world: World, data: bytes, **fields: Any) -> httpx.Response:
    return await world.api.post("/v1/tasks", json={"prompt": "a fox", "input_image": in_base64(data), **fields})


async def post_compatible(world: World, data: bytes, **fields: Any) -> httpx.Response:
    body = {"prompt": "a fox", "input_image": in_base64(data), **fields}
    return await world.api.post("/v1/flux-kontext-pro", json=body)


async def taken(world: World, data: bytes, **fields: Any) -> dict[str, Any]:
    """Post an image; return its task."""
    answer = await post_json(world, data, **fields)
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.parametrize("post", [post_file, post_json, post_compatible])
@pytest.mark.parametrize(
    "data",
    [JPEG[: len(JPEG) // 2], JPEG[: len(JPEG) // 2] + b"\xff\xd9", photo("PNG")[:-1000], photo("WEBP")[:-1000]],
    ids=["JPEG", "JPEG with an end", "PNG", "WebP"],
)
async def test_an_image_that_was_cut_off_is_refused_before_it_is_charged(world: World, post: Any, data: bytes) -> None:
    found = problem(await post(world, data), 422, "invalid_request")
    await world.work()

    assert found["fields"] == {"input_image": DAMAGED}
    assert await nothing_recorded(world)
    assert kept_files(world) == []
    assert world.ledger()["accepted"] == 0


@pytest.mark.parametrize("post", [post_file, post_json, post_compatible])
@pytest.mark.parametrize(
    "data",
    [JPEG[:-2], picture(icc_profile=bytes(2 * 1024**2)), photo("MPO", save_all=True, append_images=[SMALL])],
    ids=["JPEG without its last two bytes", "PNG with a large colour profile", "phone MPO"],
)
async def test_an_image_with_all_its_pixels_reaches_the_provider_unchanged(
    world: World, post: Any, data: bytes
) -> None:
    answer = await post(world, data)
    await world.work()

    assert answer.is_success, answer.text
    (kept,) = kept_files(world)
    assert kept.read_bytes() == data
    assert world.ledger()["accepted"] == 1


@pytest.mark.parametrize("name", OTHER_FORMATS)
async def test_an_unsupported_format_is_named(world: World, name: str) -> None:
    found = problem(await post_json(world, OTHER_FORMATS[name]), 422)

    assert found["fields"] == {"input_image": f"{name} is not supported: convert it to JPEG, PNG or WebP"}
    assert await nothing_recorded(world)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
async def test_an_image_that_is_not_upright_is_sent_as_it_is_with_a_warning(world: World, form: str) -> None:
    data = photo(form, 6)
    task = await taken(world, data)

    (image,) = task["params"]["images"]
    assert (image["bytes"], image["width"], image["height"]) == (len(data), 512, 384)
    (warning,) = task["warnings"]
    assert warning.startswith("input_image is not upright: the provider may ignore its EXIF orientation, 6")
    assert "`auto_orient: true`" in warning


@pytest.mark.parametrize("orientation", [None, 1])
async def test_an_upright_image_needs_no_warning(world: World, orientation: int | None) -> None:
    assert (await taken(world, photo("JPEG", orientation)))["warnings"] == []


@pytest.mark.parametrize("post", [post_file, post_json, post_compatible])
async def test_auto_orient_turns_an_image_before_it_is_stored(world: World, post: Any) -> None:
    posted = await post(world, photo("JPEG", 6), auto_orient="true" if post is post_file else True)
    task = await world.task(posted.json()["id"])

    (image,) = task["params"]["images"]
    assert (image["width"], image["height"], task["warnings"]) == (384, 512, [])
    with Image.open(BytesIO(kept_files(world)[0].read_bytes())) as kept:
        assert (kept.format, kept.size) == ("JPEG", (384, 512))
        assert 0x0112 not in kept.getexif()


async def test_auto_orient_leaves_an_upright_image_unchanged(world: World) -> None:
    await taken(world, JPEG, auto_orient=True)

    assert kept_files(world)[0].read_bytes() == JPEG


async def test_auto_orient_is_an_option_of_fluxhook_and_is_not_sent_to_the_provider(world: World) -> None:
    await taken(world, JPEG, auto_orient=True)
    await world.work()

    assert world.ledger()["accepted"] == 1


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
async def test_an_animation_is_taken_with_a_warning(world: World, form: str) -> None:
    task = await taken(world, picture(form=form, **ANIMATED))

    assert task["warnings"] == ["input_image is animated: the provider may use only its first frame, or refuse it"]


async def test_a_digest_does_not_depend_on_options_that_are_not_used(world: World) -> None:
    """A request with an Idempotency-Key that was sent before an update is recognised after it."""
    headers = {"idempotency-key": "one"}
    first = await world.api.post("/v1/tasks", json={"prompt": "x"}, headers=headers)
    again = await world.api.post("/v1/tasks", json={"prompt": "x", "auto_orient": False}, headers=headers)
    other = await world.api.post("/v1/tasks", json={"prompt": "x", "auto_orient": True}, headers=headers)

    assert first.json()["id"] == again.json()["id"]
    problem(other, 422, "idempotency_key_reused")


@pytest.fixture
async def busy(tmp_path: Path, sqlite_url: str) -> AsyncGenerator[World]:
    """A world whose memory for decoding is in use, behind a queue that is full."""
    decoding = WeightedSemaphore(100)
    async with open_world(tmp_path, sqlite_url, decoding_inputs=decoding) as opened, decoding.taken(100):
        yield opened


async def test_too_many_images_at_once_are_refused_for_a_while(busy: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "_MAX_WAITING", -1)
    answer = await post_json(busy, JPEG)

    problem(answer, 503, "overloaded")
    assert answer.headers["retry-after"]
    assert await nothing_recorded(busy)


async def test_a_long_wait_for_decoding_ends_with_a_refusal(busy: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "_MAX_WAIT_S", 0)

    problem(await post_json(busy, JPEG), 503, "overloaded")
    assert await nothing_recorded(busy)


async def test_a_task_without_an_image_does_not_wait_for_those_with_one(busy: World) -> None:
    await busy.post()


async def test_many_images_are_decoded_in_few_threads_and_their_memory_is_returned(world: World) -> None:
    large = black(5000, 4000)
    answers = await asyncio.gather(*(post_file(world, large) for _ in range(12)))

    assert {answer.status_code for answer in answers} == {202}
    assert sum(thread.name.startswith("input-images") for thread in threading.enumerate()) <= 4
    assert (world.use.decoding_inputs.waiting, world.use.decoding_inputs.free) == (0, 384 * 1024 * 1024)
