"""The API in OpenAI's form: what its requests mean for each kind of model, and what its answers and errors say."""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.resources import OpenAiPolicy
from app.twin import Rules
from tests.pictures import picture
from tests.sockets import until
from tests.web.documents import nothing_recorded
from tests.world import World, open_world

GENERATIONS, EDITS = "/openai/v1/images/generations", "/openai/v1/images/edits"
ALIASES = {"gpt-image-1": "flux-2-pro", "default": "flux-2-klein-4b"}


@pytest.fixture
async def world(tmp_path: Path, sqlite_url: str) -> AsyncGenerator[World]:
    policy = OpenAiPolicy(ALIASES, wait=timedelta(seconds=30))
    async with open_world(tmp_path, sqlite_url, rules=Rules(megapixels=0.01), openai=policy) as opened:
        yield opened


@asynccontextmanager
async def working(world: World) -> AsyncGenerator[None]:
    """Let time pass and jobs run during the block."""

    async def work() -> None:
        while True:
            await world.go_on(1)
            await asyncio.sleep(0.01)

    running = asyncio.create_task(work())
    try:
        yield
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def generate(world: World, **members: Any) -> httpx.Response:
    async with working(world):
        return await world.api.post(GENERATIONS, json={"prompt": "a red fox", **members})


async def edit(world: World, files: Any, **members: Any) -> httpx.Response:
    async with working(world):
        return await world.api.post(EDITS, data={"prompt": "greyer", **members}, files=files)


def refusal(answer: httpx.Response, status: int, code: str, param: str | None = None) -> dict[str, Any]:
    """Check what holds for every error of this API, and return it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    document = answer.json()
    assert document.keys() == {"error"}
    error: dict[str, Any] = document["error"]
    assert (error["code"], error["param"]) == (code, param)
    assert error["message"]
    assert error["type"]
    return error


async def sent(world: World, answer: httpx.Response) -> list[dict[str, Any]]:
    """Return the parameters of the tasks of an answer."""
    assert answer.status_code == 200, answer.text
    found = [await world.task(task_id) for task_id in answer.headers["fluxhook-tasks"].split(", ")]
    return [{"model": task["model"], **task["params"]} for task in found]


async def test_images_come_back_as_base64_with_what_they_are(world: World) -> None:
    answer = await generate(world, model="gpt-image-1", n=2, size="1536x1024", user="u1", seed=7)

    document = answer.json()
    tasks = await sent(world, answer)
    assert len(tasks) == len(document["data"]) == len(world.ledger()["tasks"]) == 2
    for task_id, item in zip(answer.headers["fluxhook-tasks"].split(", "), document["data"], strict=True):
        image = await world.api.get(f"/v1/tasks/{task_id}/image")
        assert base64.b64decode(item["b64_json"], validate=True) == image.content
    for task in tasks:
        assert (task["model"], task["width"], task["height"]) == ("flux-2-pro", 1536, 1024)
        assert (task["output_format"], task["user"], task["seed"]) == ("png", "u1", 7)
    size = "x".join(map(str, Image.open(BytesIO(image.content)).size))
    assert (document["output_format"], document["size"]) == ("png", size)
    assert document["created"] > 0


async def test_an_image_can_come_back_as_a_link_that_needs_no_key(world: World) -> None:
    answer = await generate(world, response_format="url")

    assert (await sent(world, answer))[0]["model"] == "flux-2-klein-4b"  # the alias `default`
    image = await world.outsider.get(answer.json()["data"][0]["url"])
    assert image.headers["content-type"] == "image/png"


SIZES: list[tuple[str, str, Mapping[str, Any]]] = [
    ("flux-2-pro", "auto", {"width": None, "height": None}),
    ("flux-2-pro", "512x768", {"width": 512, "height": 768}),
    ("flux-2-pro", "2048x2048", {"width": 2048, "height": 2048}),
    ("flux-kontext-pro", "1792x1024", {"aspect_ratio": "7:4"}),
    ("flux-3-image", "1024x1536", {"aspect_ratio": "2:3"}),
]


async def test_a_size_becomes_what_the_model_has_for_it(world: World) -> None:
    for model, size, expected in SIZES:
        (task,) = await sent(world, await generate(world, model=model, size=size))
        assert {name: task.get(name) for name in expected} == expected


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"size": "1000x1000"}, "size", "992x992"),
    ({"size": "1024"}, "size", "WIDTHxHEIGHT"),
    ({"size": "32x32"}, "size", "at least 64"),
    ({"size": "512x512", "width": 512}, "size", "width"),
    ({"model": "flux-3-image", "size": "1792x1024"}, "size", "16:9"),
    ({"model": "flux-3-image", "output_format": "png"}, "output_format", "chooses"),
    ({"model": "flux-pro-1.1", "size": "1792x1024"}, "size", "at most 1440"),
    ({"n": 11}, "n", "1 to 10"),
    ({"n": "two"}, "n", "1 to 10"),
    ({"n": True}, "n", "1 to 10"),
    ({"n": 1.0}, "n", "1 to 10"),
    ({"partial_images": False}, "partial_images", "0 to 3"),
    ({"seed": True}, "seed", "must be an integer"),
    ({"seed": 5.0}, "seed", "must be an integer"),
    ({"priority": False}, "priority", "valid integer"),
    ({"quality": "hd"}, "quality", "auto or standard"),
    ({"background": "transparent"}, "background", "opaque"),
    ({"style": "natural"}, "style", "vivid"),
    ({"svg": {}}, "svg", "leave it out"),
    ({"response_format": "png"}, "response_format", "url"),
    ({"response_format": "url", "stream": True}, "response_format", "b64_json"),
    ({"size": "1x1"}, "size", "64x64"),
    ({"size": "4096x4096"}, "size", "2048x2048"),
    ({"size": "8192x1024"}, "size", "5792x720"),
    ({"stream": "perhaps"}, "stream", "true or false"),
    ({"input_image": "no image"}, "input_image", "base64"),
]


async def test_what_the_model_would_not_see_is_refused(world: World) -> None:
    for members, param, says in REFUSED:
        answer = await world.api.post(GENERATIONS, json={"prompt": "a red fox", "model": "flux-2-pro", **members})

        error = refusal(answer, 400, "invalid_value", param)
        assert error["type"] == "invalid_request_error"
        assert says in error["message"]
    await nothing_recorded(world)


async def test_values_that_leave_the_choice_to_the_model_are_accepted(world: World) -> None:
    harmless = {"quality": "standard", "background": "auto", "style": "vivid", "moderation": "auto", "size": ""}
    others = {"output_compression": 100, "partial_images": 2, "safety_identifier": "u1", "metadata": {"order": "7"}}
    answer = await generate(world, model="flux-3-image", **harmless, **others)

    assert not harmless.keys() & (await sent(world, answer))[0].keys()
    task = await world.task(answer.headers["fluxhook-tasks"])
    assert (task["user"], task["metadata"]) == ("u1", {"order": "7"})


async def test_every_error_has_openais_form(world: World) -> None:
    prompt = {"prompt": "a red fox"}
    unknown = await world.api.post(GENERATIONS, json={**prompt, "model": "dall-e-3"})
    assert "gpt-image-1" in refusal(unknown, 404, "model_not_found", "model")["message"]
    missing = await world.api.post(GENERATIONS, json={"model": "flux-2-pro"})
    refusal(missing, 400, "missing_required_parameter", "prompt")
    no_key = await world.outsider.post(GENERATIONS, json=prompt)
    assert refusal(no_key, 401, "invalid_api_key")["type"] == "invalid_request_error"
    refusal(
        await world.api.post(GENERATIONS, content=b"{", headers={"content-type": "application/json"}),
        400,
        "malformed_request",
    )
    refusal(await world.api.post(GENERATIONS, data=prompt), 415, "unsupported_media_type")
    large = await world.api.post(
        GENERATIONS, content=b"x", headers={"content-length": "99999999", "content-type": "application/json"}
    )
    refusal(large, 413, "too_large")
    refusal(await world.api.post("/openai/v1/chat/completions", json={}), 404, "not_found")
    wrong_method = await world.api.get(GENERATIONS)
    refusal(wrong_method, 405, "method_not_allowed")
    assert wrong_method.headers["allow"] == "POST"
    await nothing_recorded(world)


@pytest.mark.parametrize(
    ("prompt", "status", "code"),
    [
        ("forbidden", 400, "content_policy_violation"),
        ("unsafe result", 400, "content_policy_violation"),
        ("fail", 502, "provider_error"),
    ],
)
async def test_a_task_without_an_image_is_an_error_that_is_not_repeated(
    world: World, prompt: str, status: int, code: str
) -> None:
    answer = await generate(world, prompt=prompt, n=2)

    error = refusal(answer, status, code)
    assert len(error["task_ids"]) == len(world.ledger()["tasks"]) == 2
    assert error["task_id"] in error["task_ids"]
    assert answer.headers.get("x-should-retry") == (None if status == 400 else "false")


async def test_an_error_about_some_of_the_tasks_says_which_images_were_made(world: World) -> None:
    asking = asyncio.create_task(world.api.post(GENERATIONS, json={"prompt": "a red fox", "n": 3}))

    async def are_recorded() -> bool:
        return len((await world.api.get("/v1/tasks")).json()["tasks"]) == 3

    await until(are_recorded)
    stopped, *others = [task["id"] for task in (await world.api.get("/v1/tasks")).json()["tasks"]]
    await world.api.post(f"/v1/tasks/{stopped}/cancel")
    async with working(world):
        answer = await asking

    error = refusal(answer, 409, "cancelled")
    assert "2 of 3 images were made" in error["message"]
    assert error["task_id"] == stopped
    assert set(error["task_ids"]) == {stopped, *others}
    for task_id in others:
        assert task_id in error["message"]
        assert (await world.api.get(f"/v1/tasks/{task_id}/image")).status_code == 200


async def test_a_request_is_held_for_a_time_and_then_says_that_the_task_goes_on(world: World) -> None:
    world.network.hosts["gateway"].app.state.use = replace(  # type: ignore[attr-defined]
        world.use, openai=OpenAiPolicy(wait=timedelta(milliseconds=50))
    )
    answer = await world.api.post(GENERATIONS, json={"prompt": "a red fox"})

    error = refusal(answer, 504, "task_in_progress")
    assert "goes on" in error["message"]
    assert (await world.task(error["task_id"]))["status"] == "queued"


async def test_an_idempotency_key_covers_all_tasks_of_a_request(world: World) -> None:
    body = {"prompt": "a red fox", "n": 3}
    keyed = {"idempotency-key": "k1"}
    async with working(world):
        first = await world.api.post(GENERATIONS, json=body, headers=keyed)
        again = await world.api.post(GENERATIONS, json={**body, "response_format": "url"}, headers=keyed)
        other = await world.api.post(GENERATIONS, json={**body, "n": 2}, headers=keyed)

    assert len(await sent(world, first)) == len(world.ledger()["tasks"]) == 3
    assert again.headers["fluxhook-tasks"] == first.headers["fluxhook-tasks"]
    refusal(other, 400, "idempotency_key_reused")


async def test_images_of_an_edit_fill_the_members_of_the_model_in_their_order(world: World) -> None:
    data = [picture(320 + 16 * number) for number in range(3)]
    numbered = await edit(world, [("image[]", each) for each in data], model="flux-2-pro", n="2")
    listed = await edit(world, [("image", each) for each in data[:2]], model="flux-3-image")
    named = await edit(world, {"image": data[0]}, model="flux-pro-1.1")

    for task in await sent(world, numbered):
        fields = [(image["field"], image["width"]) for image in task["images"]]
        assert fields == [("input_image", 320), ("input_image_2", 336), ("input_image_3", 352)]
    (task,) = await sent(world, listed)
    assert [image["field"] for image in task["images"]] == ["images[0]", "images[1]"]
    (task,) = await sent(world, named)
    assert [image["field"] for image in task["images"]] == ["image_prompt"]

    missing = await world.api.post(EDITS, data={"prompt": "greyer"}, files={"x": (None, "")})
    refusal(missing, 400, "missing_required_parameter", "image")
    masked = await world.api.post(EDITS, data={"prompt": "greyer"}, files={"image": data[0], "mask": data[0]})
    refusal(masked, 400, "invalid_value", "mask")


def data_url(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


async def edit_json(world: World, **members: Any) -> httpx.Response:
    async with working(world):
        return await world.api.post(EDITS, json={"prompt": "greyer", **members})


async def test_an_edit_may_be_json_with_references_to_its_images(world: World) -> None:
    async def gallery(_request: Request) -> Response:
        return Response(picture(352), media_type="image/png")

    world.network.add("93.184.215.14", Starlette(routes=[Route("/3.png", gallery)]))
    long = picture(320, 256, "PNG", compress_level=0)
    images = [{"image_url": data_url(picture(336))}, {"image_url": data_url(long), "file_id": None}]
    linked = {"image_url": "https://93.184.215.14/3.png"}
    numbered = await edit_json(world, model="flux-2-pro", images=[*images, linked], n=2)
    listed = await edit_json(world, model="flux-3-image", images=images)
    plain = await edit_json(world, model="flux-2-pro", image=data_url(picture(336)))

    for task in await sent(world, numbered):
        fields = [(image["field"], image["width"]) for image in task["images"]]
        assert fields == [("input_image", 336), ("input_image_2", 320), ("input_image_3", 352)]
    (task,) = await sent(world, listed)
    assert [(image["field"], image["width"]) for image in task["images"]] == [("images[0]", 336), ("images[1]", 320)]
    (task,) = await sent(world, plain)
    assert [image["field"] for image in task["images"]] == ["input_image"]


REFERENCES: list[tuple[dict[str, Any], str, str]] = [
    ({}, "images", "required"),
    ({"images": []}, "images", "required"),
    ({"images": [{"file_id": "file-1"}]}, "images[0]", "image_url"),
    ({"images": [{"url": "https://x.example.com/1.png"}]}, "images[0]", "image_url"),
    ({"images": [{"image_url": ""}]}, "images[0]", "image_url"),
    ({"images": [7]}, "images[0]", "image_url"),
    ({"images": [{"image_url": "data:image/png;base64,AAAA"}]}, "images[0]", "JPEG"),
    ({"images": [{"image_url": "x"}], "input_image": "x"}, "images[0]", "input_image"),
    ({"images": [{"image_url": "x"}], "mask": {"file_id": "file-1"}}, "mask", "image_url"),
    ({"images": [{"image_url": "x"}], "mask": [{"image_url": "x"}, {"image_url": "x"}]}, "mask", "one"),
]


@pytest.mark.parametrize(("members", "param", "reason"), REFERENCES)
async def test_a_reference_that_cannot_be_used_is_refused(
    world: World, members: dict[str, Any], param: str, reason: str
) -> None:
    answer = await world.api.post(EDITS, json={"prompt": "greyer", "model": "flux-2-pro", **members})

    code = "missing_required_parameter" if reason == "required" else "invalid_value"
    assert reason in refusal(answer, 400, code, param)["message"]
    await nothing_recorded(world)


async def test_an_error_about_an_image_has_the_name_that_the_request_gives_it(world: World) -> None:
    files = [("image[]", picture()), ("image[]", b"not an image")]
    answer = await world.api.post(EDITS, data={"prompt": "greyer", "model": "flux-2-pro"}, files=files)

    assert refusal(answer, 400, "invalid_value", "image[1]")["message"].startswith("image[1]: ")


async def test_the_transparent_part_of_a_mask_becomes_white(world: World) -> None:
    mask = Image.new("RGBA", (320, 256), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, 160, 256))
    out = BytesIO()
    mask.save(out, "PNG")
    answer = await edit(world, {"image": picture(), "mask": out.getvalue()}, model="flux-pro-1.0-fill")
    opaque = picture(320, 256, "PNG", compress_level=1)
    as_it_is = await edit(world, {"image": picture(), "mask": opaque}, model="flux-pro-1.0-fill")

    stored = Image.open(BytesIO(await input_of(world, answer, "mask")))
    assert (stored.mode, stored.getpixel((0, 0)), stored.getpixel((300, 0))) == ("L", 255, 0)
    assert await input_of(world, as_it_is, "mask") == opaque

    references = {"images": [{"image_url": data_url(picture())}], "mask": {"image_url": data_url(out.getvalue())}}
    referred = await edit_json(world, model="flux-pro-1.0-fill", **references)
    assert await input_of(world, referred, "mask") == await input_of(world, answer, "mask")


async def input_of(world: World, answer: httpx.Response, field: str) -> bytes:
    ((sent_image,),) = [[i for i in task["images"] if i["field"] == field] for task in await sent(world, answer)]
    folder = world.use.scratch / "images" / "inputs"
    path, *_ = [path for path in folder.rglob("*.png") if path.name.startswith(sent_image["sha256"])]
    return path.read_bytes()


async def test_a_stream_has_one_event_for_each_image_or_an_error(world: World) -> None:
    answer = await generate(world, n=2, stream=True, partial_images=1)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = events_of(answer)
    assert [event["type"] for event in events] == ["image_generation.completed"] * 2
    assert base64.b64decode(events[0]["b64_json"]).startswith(b"\x89PNG")
    edited = await edit(world, {"image": picture()}, stream="true")
    assert [event["type"] for event in events_of(edited)] == ["image_edit.completed"]

    (failed,) = events_of(await generate(world, prompt="forbidden", stream=True))
    assert (failed["type"], failed["error"]["code"]) == ("error", "content_policy_violation")


def events_of(answer: httpx.Response) -> list[dict[str, Any]]:
    lines = answer.text.splitlines()
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]


async def test_spaces_keep_the_connection_alive_and_errors_are_then_in_the_body(world: World) -> None:
    policy = OpenAiPolicy(wait=timedelta(seconds=30), keepalive=timedelta(milliseconds=5))
    world.network.hosts["gateway"].app.state.use = replace(world.use, openai=policy)  # type: ignore[attr-defined]

    answer = await generate(world)
    assert answer.text.startswith(" ")
    assert answer.json()["data"][0]["b64_json"]
    failed = await generate(world, prompt="forbidden")
    assert (failed.status_code, failed.json()["error"]["code"]) == (200, "content_policy_violation")


async def test_models_and_aliases_are_listed(world: World) -> None:
    listed = (await world.api.get("/openai/v1/models")).json()
    assert listed["object"] == "list"
    owners = {model["id"]: model["owned_by"] for model in listed["data"]}
    assert (owners["flux-2-pro"], owners["gpt-image-1"]) == ("fluxhook", "flux-2-pro")
    assert "default" not in owners
    assert "flux-3-video" not in owners

    for model_id in ("gpt-image-1", "flux-tools%2Ferase-v1"):
        assert (await world.api.get(f"/openai/v1/models/{model_id}")).json()["object"] == "model"
    refusal(await world.api.get("/openai/v1/models/dall-e-2"), 404, "model_not_found", "model")


async def test_without_an_alias_the_first_current_model_is_used(world: World) -> None:
    world.network.hosts["gateway"].app.state.use = replace(  # type: ignore[attr-defined]
        world.use, openai=OpenAiPolicy(wait=timedelta(seconds=30))
    )
    (task,) = await sent(world, await generate(world))
    assert task["model"] == world.use.catalog.recommended.id
