"""Input images in every form, their limits, and refused tasks, which leave no row and no file."""

import os
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.dispatch import dispatch
from app.errors import Unavailable
from app.provider import ProviderResponse
from app.rules.task import Report, Said
from app.submit import submit
from tests.calling import answering
from tests.pictures import black, claims, in_base64, padded, picture
from tests.requests import task_params
from tests.web.documents import kept_files, nothing_recorded, problem, rows
from tests.world import World, open_world, with_provider

PNG = picture()
MB = 1024 * 1024
PUBLIC, OTHER_PUBLIC, PRIVATE = "93.184.216.34", "93.184.216.35", "10.0.0.7"


async def gallery(scope: Scope, receive: Receive, send: Send) -> None:
    """A website with one image and several kinds of other answers."""
    answers: dict[str, Response] = {
        "/fox.png": Response(PNG, media_type="text/html"),
        "/gone.png": Response(status_code=404),
        "/page.png": Response(b"<html>no picture</html>", media_type="image/png"),
        "/huge.png": Response(bytes(20 * MB + 1)),
    }
    await answers[Request(scope).url.path](scope, receive, send)


async def refused(world: World, status: int, **params: Any) -> dict[str, Any]:
    """Post these parameters; return the error document. Nothing may have been recorded."""
    answer = await world.api.post("/v1/tasks", json={"prompt": "a red fox", **params})
    found = problem(answer, status)
    assert await nothing_recorded(world)
    return found


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(in_base64(PNG), id="base64"),
        pytest.param(in_base64(PNG)[:76] + "\r\n" + in_base64(PNG)[76:], id="base64 in lines"),
        pytest.param(f"data:image/png;base64,{in_base64(PNG)}", id="data URL"),
        pytest.param(f"DATA:text/plain;BASE64,{in_base64(PNG)}", id="data URL with a wrong type"),
        pytest.param(f"http://{PUBLIC}/fox.png", id="http URL"),
    ],
)
async def test_an_image_in_any_form_is_stored_under_its_digest(world: World, given: str) -> None:
    world.network.add(PUBLIC, gallery)

    task = await world.task(await world.post(input_image=given))

    digest = sha256(PNG).hexdigest()
    assert task["params"]["images"] == [
        {
            "field": "input_image",
            "sha256": digest,
            "media_type": "image/png",
            "bytes": len(PNG),
            "width": 320,
            "height": 256,
        }
    ]
    (kept,) = kept_files(world)
    assert (kept.name.split(".")[0], kept.suffix) == (digest, ".png")


async def test_a_task_is_recorded_with_its_attempt_and_job_before_anything_is_sent(
    each_world: World,
) -> None:
    await each_world.post()

    assert await rows(each_world) == {"tasks": 1, "submissions": 1, "jobs": 1}
    assert each_world.ledger()["accepted"] == 0


async def test_the_database_holds_references_to_images_instead_of_images(world: World, tmp_path: Path) -> None:
    await world.post(input_image=in_base64(PNG))

    written = b"".join((tmp_path / f"fluxhook.db{end}").read_bytes() for end in ("", "-wal"))
    assert PNG[:64] not in written
    assert in_base64(PNG)[:64].encode() not in written


async def test_four_images_reach_the_provider_in_their_order(world: World) -> None:
    pictures = [picture(300 + number) for number in range(4)]
    fields = ("input_image", "input_image_2", "input_image_3", "input_image_4")

    await world.post(**{field: in_base64(data) for field, data in zip(fields, pictures, strict=True)})
    await world.work()

    assert world.ledger()["tasks"][0]["inputs"] == [sha256(data).hexdigest() for data in pictures]


async def test_each_task_stores_its_own_copy_of_an_image(world: World) -> None:
    for _ in range(2):
        await world.post(input_image=in_base64(PNG))

    assert len(kept_files(world)) == 2


@pytest.mark.parametrize("field", ["input_image_2", "input_image_4"])
async def test_a_gap_in_the_numbering_is_refused(world: World, field: str) -> None:
    found = await refused(world, 422, **{field: in_base64(PNG)})

    assert found["fields"] == {"input_image": "missing: images are numbered without a gap"}
    assert kept_files(world) == []


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        pytest.param("*** not base64 ***", "not valid base64", id="other characters"),
        pytest.param(in_base64(PNG)[:-3], "not valid base64", id="cut base64"),
        pytest.param("é" * 8, "not valid base64", id="no ASCII"),
        pytest.param("\0\0\0\0", "not valid base64", id="NUL"),
        pytest.param("data:image/png,abc", "not a base64 data URL", id="data URL without base64"),
        pytest.param("data:", "not a base64 data URL", id="empty data URL"),
        pytest.param("data:image/png;base64,", "not a JPEG, PNG or WebP image", id="data URL of nothing"),
        pytest.param("ftp://example.com/fox.png", "not valid base64", id="another scheme"),
        pytest.param("file:///etc/passwd", "not valid base64", id="a file of ours"),
        pytest.param(in_base64(b"<html></html>"), "not a JPEG, PNG or WebP image", id="HTML"),
        pytest.param(in_base64(picture(form="GIF")), "GIF is not supported: convert it to JPEG, PNG or WebP", id="GIF"),
        pytest.param(
            in_base64(picture(form="TIFF")), "TIFF is not supported: convert it to JPEG, PNG or WebP", id="TIFF"
        ),
        pytest.param(in_base64(PNG[:20]), "the image's header is broken", id="cut header"),
        pytest.param(in_base64(claims(10_000, 10_000)), "10000x10000 is more than 20 megapixels", id="100 megapixels"),
        pytest.param(in_base64(claims(20_000_001, 1)), "20000001x1 is more than 20 megapixels", id="one pixel more"),
    ],
)
async def test_an_unacceptable_input_image_is_refused_by_its_field(world: World, given: str, reason: str) -> None:
    found = await refused(world, 422, input_image=given)

    assert found["fields"] == {"input_image": reason}
    assert kept_files(world) == []


async def test_an_image_of_twenty_megapixels_is_accepted(world: World) -> None:
    await world.post(input_image=in_base64(black(5000, 4000)))


async def test_an_image_of_twenty_megabytes_is_accepted_and_one_byte_more_is_refused(world: World) -> None:
    await world.post(input_image=in_base64(padded(20 * MB)))

    answer = await world.api.post(
        "/v1/tasks", json={"prompt": "a red fox", "input_image": in_base64(padded(20 * MB + 1))}
    )

    assert problem(answer, 413, "too_large")["fields"] == {"input_image": "more than 20 MB"}
    assert await rows(world) == {"tasks": 1, "submissions": 1, "jobs": 1}


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        ("gone.png", 422, "its URL answered with HTTP 404"),
        ("page.png", 422, "not a JPEG, PNG or WebP image"),
        ("huge.png", 413, "more than 20 MB"),
    ],
)
async def test_a_url_without_an_image_is_refused(world: World, path: str, status: int, reason: str) -> None:
    world.network.add(PUBLIC, gallery)
    world.network.add(PRIVATE, gallery)

    found = await refused(world, status, input_image=f"http://{PUBLIC}/{path}")

    assert found["fields"] == {"input_image": reason}
    assert kept_files(world) == []


@pytest.mark.parametrize(
    "host",
    [
        PRIVATE,
        "127.0.0.1",
        "0x7f.1",
        "2130706433",
        "[::1]",
        "[::ffff:10.0.0.7]",
        "169.254.169.254",
        "",
        "a..b",
        "xn--zzzzzzz",
        "[",
        "127.0.0.1:99999",
        "127.0.0.1:99999999999999999999",
        "exa%00mple",
        "a" * 70_000,
    ],
    ids=lambda host: host[:40] or "no host",
)
async def test_a_private_address_gets_the_same_error_as_an_unreachable_one(world: World, host: str) -> None:
    world.network.add(PRIVATE, gallery)
    dead = await refused(world, 422, input_image=f"http://{OTHER_PUBLIC}/fox.png")

    blocked = await refused(world, 422, input_image=f"http://{host}/fox.png")

    assert blocked == dead
    assert dead["fields"] == {"input_image": "its URL cannot be reached"}


async def test_a_refusal_of_the_second_image_stores_no_image_and_records_no_task(world: World) -> None:
    await refused(world, 422, input_image=in_base64(PNG), input_image_2=in_base64(b"no image"))

    assert kept_files(world) == []


async def test_without_a_provider_key_nothing_can_be_submitted(tmp_path: Path, sqlite_url: str) -> None:
    # As a field of Resources, `provider` cannot be given to `open_world`, whose own `provider` names an adapter.
    async with open_world(tmp_path, sqlite_url) as world:
        with pytest.raises(Unavailable, match="no provider key is configured"):
            await submit(with_provider(world.use, None), "key_admin", task_params(), {})

        assert await nothing_recorded(world)


async def test_a_store_that_cannot_be_written_is_a_temporary_error(world: World) -> None:
    images = world.use.scratch / "images"
    shutil.rmtree(images, ignore_errors=True)
    images.write_text("in the way")

    answer = await world.api.post("/v1/tasks", json={"prompt": "a red fox", "input_image": in_base64(PNG)})

    assert answer.headers["retry-after"]
    problem(answer, 503, "unavailable")
    assert await nothing_recorded(world)


async def test_a_missing_data_folder_is_a_temporary_error(tmp_path: Path, sqlite_url: str) -> None:
    async with open_world(tmp_path, sqlite_url, scratch=tmp_path / "away") as world:
        answer = await world.api.post("/v1/tasks", json={"prompt": "a red fox", "input_image": in_base64(PNG)})

        assert problem(answer, 503, "unavailable")["detail"] == f"an image cannot be stored: {os.strerror(2)}"
        assert await nothing_recorded(world)


async def test_a_small_image_and_a_high_tolerance_are_allowed_with_warnings(world: World) -> None:
    task = await world.task(await world.post(input_image=in_base64(picture(100, 300)), safety_tolerance=6))

    assert len(task["warnings"]) == 2
    assert "input_image is 100x300" in task["warnings"][1]


async def test_an_upload_is_streamed_and_stored(world: World) -> None:
    answer = await world.api.post("/v1/tasks", data={"prompt": "a red fox"}, files={"input_image": ("x.txt", PNG)})

    assert answer.status_code == httpx.codes.ACCEPTED
    assert answer.json()["params"]["images"][0]["sha256"] == sha256(PNG).hexdigest()


@pytest.mark.parametrize("path", ["/v1/tasks", "/v1/flux-kontext-pro"])
@pytest.mark.parametrize("given", [{}, {"user": "end-user-7", "seed": 2**64 - 1}], ids=["neither", "both"])
async def test_user_and_a_large_seed_are_passed_on_if_they_are_given(
    tmp_path: Path, sqlite_url: str, path: str, given: dict[str, Any]
) -> None:
    provider = answering(ProviderResponse(Report(Said.PENDING, provider_id="1"), 200, {}, b"{}"))
    async with open_world(tmp_path, sqlite_url) as world:
        posted = await world.api.post(path, json={"prompt": "a red fox", **given})
        await dispatch(with_provider(world.use, provider), posted.json()["id"])
        task = await world.task(posted.json()["id"])

    sent = provider.orders[0].params
    assert ("user" in sent) == ("user" in given)
    assert {**sent, **given} == sent
    assert (task["params"]["user"], task["params"]["seed"]) == (given.get("user"), given.get("seed"))
