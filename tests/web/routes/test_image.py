"""A stored image over HTTP: whole, in ranges, unchanged, and always as an image."""

from hashlib import sha256
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from PIL import Image

from app.twin import Rules
from tests.images.test_content_credentials import CREDENTIALS
from tests.pictures import picture
from tests.web.documents import kept_files, problem
from tests.world import World


@pytest.fixture
async def path(world: World) -> str:
    """The path of the image of a stored task."""
    world.twin.rules = Rules(megapixels=0.01)
    task_id = await world.post()
    await world.go_on(6)
    return f"/v1/tasks/{task_id}/image"


async def whole(world: World, path: str) -> bytes:
    return (await world.api.get(path)).content


@pytest.mark.parametrize(("form", "media_type"), [("png", "image/png"), ("jpeg", "image/jpeg"), ("webp", "image/webp")])
async def test_a_stored_image_is_what_the_task_says_of_it(each_world: World, form: str, media_type: str) -> None:
    task_id = await each_world.post(output_format=form)
    await each_world.go_on(6)

    answer = await each_world.api.get(f"/v1/tasks/{task_id}/image")

    told = (await each_world.task(task_id))["image"]
    with Image.open(BytesIO(answer.content)) as image:
        assert (image.width, image.height) == (told["width"], told["height"])
    assert sha256(answer.content).hexdigest() == told["sha256"]
    assert (answer.status_code, answer.headers["content-type"]) == (200, media_type)
    assert int(answer.headers["content-length"]) == told["bytes"] == len(answer.content)


async def test_a_browser_treats_an_image_only_as_an_image(world: World, path: str) -> None:
    headers = (await world.api.get(path)).headers

    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert headers["content-disposition"].startswith('inline; filename="task_')
    assert headers["cache-control"] == "private, no-cache"


@pytest.mark.parametrize(("name", "stated"), [("jpeg", "present"), ("png", "present"), ("plain", "none")])
async def test_content_credentials_are_stated_and_delivered_untouched(
    each_world: World, name: str, stated: str
) -> None:
    file = CREDENTIALS.get(name, picture())
    each_world.twin.gallery.file = file
    task_id = await each_world.post()
    await each_world.go_on(6)

    answer = await each_world.api.get(f"/v1/tasks/{task_id}/image")

    assert (answer.headers["content-credentials"], answer.content) == (stated, file)
    image = (await each_world.task(task_id))["image"]
    assert (image["content_credentials"], image["unverified_image"]) == (stated, None)


@pytest.mark.parametrize(
    ("file", "media_type", "extension"),
    [
        (b"\x89PNG\r\n\x1a\n<script>alert(1)</script>", "image/png", "png"),
        (b"\0<script>alert(1)</script>", "application/octet-stream", "bin"),
    ],
)
async def test_a_browser_saves_an_unverified_file_and_runs_nothing_of_it(
    world: World, file: bytes, media_type: str, extension: str
) -> None:
    world.twin.gallery.file = file
    task_id = await world.post()
    await world.go_on(6)
    polled = await world.api.get("/v1/get_result", params={"id": task_id})
    link = polled.json()["result"]["sample"]

    for answer in (await world.api.get(f"/v1/tasks/{task_id}/image"), await world.outsider.get(link)):
        assert (answer.content, answer.headers["content-type"]) == (file, media_type)
        assert answer.headers["content-disposition"] == f'attachment; filename="{task_id}.{extension}"'
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert f"/{task_id}.{extension}?" in link


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-", 0, None),
        ("bytes=5-9", 5, 10),
        ("bytes=-1", -1, None),
        ("bytes=-99999999", 0, None),
        ("bytes=5-99999999", 5, None),
    ],
)
async def test_a_range_is_served(world: World, path: str, asked: str, start: int, end: int | None) -> None:
    data = await whole(world, path)

    answer = await world.api.get(path, headers={"range": asked})

    first = len(data) + start if start < 0 else start
    assert (answer.status_code, answer.content) == (206, data[start:end])
    assert answer.headers["content-range"] == f"bytes {first}-{first + len(answer.content) - 1}/{len(data)}"


NO_RANGES = (
    "",
    "bytes=",
    "bytes=-",
    "bytes=5-2",
    "bytes=a-b",
    "bytes=0-1,2-3",
    "bytes=" + ",".join(["0-"] * 1000),
    "bytes=0-99999999999999999999999",
    "bytes=99999999999999999999-",
    "items=0-5",
    "0-5",
)


async def test_an_invalid_range_gets_the_whole_image(world: World, path: str) -> None:
    data = await whole(world, path)

    for asked in NO_RANGES:
        answer = await world.api.get(path, headers={"range": asked})
        assert (answer.status_code, answer.content) == (200, data), asked


@pytest.mark.parametrize("asked", ["bytes=-0", "bytes=99999999-", "bytes=99999999-100000000"])
async def test_a_range_outside_of_the_image_is_refused(world: World, path: str, asked: str) -> None:
    answer = await world.api.get(path, headers={"range": asked})

    problem(answer, 416, "range_not_satisfiable")
    assert answer.headers["content-range"] == f"bytes */{len(await whole(world, path))}"
    assert "etag" not in answer.headers


@pytest.mark.parametrize(
    ("if_range", "status"), [("{etag}", 206), ("W/{etag}", 200), ('"x"', 200), ("Wed, 21 Oct 2015 07:28:00 GMT", 200)]
)
async def test_a_range_of_another_image_gets_the_whole_image(
    world: World, path: str, if_range: str, status: int
) -> None:
    etag = (await world.api.get(path)).headers["etag"]
    headers = {"range": "bytes=0-4", "if-range": if_range.format(etag=etag)}

    assert (await world.api.get(path, headers=headers)).status_code == status


@pytest.mark.parametrize(
    ("if_none_match", "status"),
    [
        ("{etag}", 304),
        ("W/{etag}", 304),
        ('"x", W/"y",{etag}', 304),
        ("*", 304),
        ('"x"', 200),
        ("x", 200),
        ("", 200),
        (",,,", 200),
    ],
)
async def test_an_unchanged_image_is_not_sent_again(world: World, path: str, if_none_match: str, status: int) -> None:
    etag = (await world.api.get(path)).headers["etag"]

    answer = await world.api.get(path, headers={"if-none-match": if_none_match.format(etag=etag)})

    assert answer.status_code == status
    assert (answer.content == b"") == (status == httpx.codes.NOT_MODIFIED)
    assert answer.headers["etag"] == etag


async def test_a_head_request_gets_the_same_headers_without_the_bytes(world: World, path: str) -> None:
    got, head = await world.api.get(path), await world.api.head(path, headers={"range": "bytes=0-1"})

    assert (head.status_code, head.content) == (200, b"")
    assert {**head.headers, "date": ""} == {**got.headers, "date": ""}


@pytest.mark.parametrize(
    ("prompt", "seconds", "reason"), [("a red fox", 0, "is queued"), ("unsafe result", 30, "failed")]
)
async def test_a_task_without_an_image_says_why(world: World, prompt: str, seconds: int, reason: str) -> None:
    task_id = await world.post(prompt=prompt)
    if seconds:
        await world.go_on(seconds)

    found = problem(await world.api.get(f"/v1/tasks/{task_id}/image"), 404)

    assert found["detail"] == f"there is no image: the task {reason}"


async def test_a_removed_file_is_not_found(world: World, path: str) -> None:
    for file in kept_files(world):
        file.unlink()

    assert problem(await world.api.get(path), 404)["detail"] == "the image is no longer in the store"


async def test_a_truncated_file_is_not_served(world: World, path: str) -> None:
    for file in kept_files(world):
        file.write_bytes(file.read_bytes()[:100])

    assert problem(await world.api.get(path), 404)["detail"] == "the image is no longer in the store"


async def test_an_image_in_an_unavailable_store_is_unavailable(world: World, path: str, tmp_path: Path) -> None:
    (tmp_path / "images").rename(tmp_path / "gone")

    assert problem(await world.api.get(path), 503)["detail"].startswith("the image store cannot be used")
