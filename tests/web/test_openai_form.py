"""What a member in OpenAI's form may look like: the same in JSON, as a text in JSON, and in a form."""

import json
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.types import Message

from app.catalog import Model, shipped_catalog
from app.errors import InvalidRequest
from app.params import TaskOptions
from app.rules.json_value import JsonObject
from app.web.openai.form import ImagesRequest, read_edit
from app.web.uploads import ApplicationUploads
from tests.pictures import in_base64, picture
from tests.world import World

PNG = picture(64, 64)
CATALOG = shipped_catalog()
EDITING = [model for model in CATALOG if model.kind == "image" and model.images.members]
VALUES: dict[str, Any] = {
    "webhook_url": "https://app.example.com/hooks",
    "webhook_secret": "a secret of the webhook",
    "webhook_form": "event",
    "webhook_events": ["stored", "failed"],
    "priority": 3,
    "deadline_at": "2030-01-01T00:00:00Z",
    "auto_orient": True,
    "user": "customer-17",
    "metadata": {"order": "7"},
}
OF_OPENAI: dict[str, Any] = {"n": 2, "stream": True, "partial_images": 1, "output_compression": 100}


async def read(world: World, request: httpx.Request) -> ImagesRequest:
    """Read the request as the route does, up to the record of its tasks."""

    async def receive() -> Message:
        return {"type": "http.request", "body": request.read(), "more_body": False}

    headers = [(name.lower(), value) for name, value in request.headers.raw]
    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": headers}
    async with AsyncExitStack() as stack:
        uploads = ApplicationUploads(world.use, "key_admin", "app_admin")
        return await read_edit(Request(scope, receive), world.use, uploads, stack)


def in_json(members: dict[str, Any]) -> httpx.Request:
    images = [{"image_url": f"data:image/png;base64,{in_base64(PNG)}"}]
    return httpx.Request("POST", "http://gateway", json={"prompt": "greyer", "images": images, **members})


def in_form(members: dict[str, Any]) -> httpx.Request:
    fields = {"prompt": "greyer", **{name: text_of(value) for name, value in members.items()}}
    return httpx.Request("POST", "http://gateway", data=fields, files={"image": ("fox.png", PNG)})


def text_of(value: Any) -> str:
    """Return the text of a value in a form."""
    if isinstance(value, list):
        return ",".join(value)
    return value if isinstance(value, str) else json.dumps(value)


def example(schema: JsonObject) -> Any:
    """Return a value that the schema of a scalar accepts."""
    for name in ("enum", "examples"):
        values = schema.get(name)
        if isinstance(values, list) and values:
            return values[0]
    types = schema.get("type")
    kind = next(name for name in (types if isinstance(types, list) else [types]) if name != "null")
    if kind in {"integer", "number"}:
        return max(int(schema.get("minimum", 0)), int(schema.get("multipleOf", 1)))  # type: ignore[arg-type]
    return True if kind == "boolean" else None


def scalars(model: Model) -> dict[str, Any]:
    """Return a value for each member of a model that is a number or a flag."""
    named = {"prompt", "webhook_url", "webhook_secret", *model.images.members, *VALUES}
    found = {
        name: example(schema) for name, schema in model.properties.items() if name not in named and "type" in schema
    }
    return {name: value for name, value in found.items() if isinstance(value, int)}


def seen(request: ImagesRequest) -> tuple[Any, ...]:
    without_images = {name: value for name, value in request.params.masked_json().items() if "image" not in name}
    return without_images, request.count, request.stream


def test_every_option_has_a_value_here() -> None:
    assert VALUES.keys() == TaskOptions.model_fields.keys()


@pytest.mark.parametrize("name", [*VALUES, *OF_OPENAI])
async def test_an_option_has_the_same_effect_in_json_as_text_and_in_a_form(world: World, name: str) -> None:
    value = {**VALUES, **OF_OPENAI}[name]
    typed = await read(world, in_json({name: value}))

    assert seen(await read(world, in_json({name: text_of(value)}))) == seen(typed)
    assert seen(await read(world, in_form({name: value}))) == seen(typed)
    without = await read(world, in_json({}))
    has_effect = name not in {"partial_images", "output_compression"}
    assert (seen(typed) != seen(without)) == has_effect


@pytest.mark.parametrize("model", EDITING, ids=lambda model: model.id)
async def test_a_member_of_a_model_has_the_same_effect_in_json_as_text_and_in_a_form(
    world: World, model: Model
) -> None:
    for name, value in scalars(model).items():
        members = {"model": model.id, name: value}
        requests = (in_json(members), in_json({**members, name: text_of(value)}), in_form(members))
        found = [outcome async for outcome in outcomes(world, requests)]

        assert found[1:] == found[:1] * 2, name


async def outcomes(world: World, requests: tuple[httpx.Request, ...]) -> Any:
    """Yield what each request means; of one that is refused, the members that are wrong."""
    for request in requests:
        try:
            yield (await read(world, request)).params.parameters
        except InvalidRequest as error:
            yield sorted(error.fields)


@pytest.mark.parametrize("value", ["maybe", 1, 0, [], "2", "3.5"])
async def test_a_flag_that_is_neither_true_nor_false_is_refused(world: World, value: Any) -> None:
    with pytest.raises(InvalidRequest) as error:
        await read(world, in_json({"auto_orient": value}))

    assert list(error.value.fields) == ["auto_orient"]


async def test_two_names_of_the_end_user_are_accepted_if_they_agree(world: World) -> None:
    for members in (
        {"user": "u1", "safety_identifier": "u1"},
        {"user": "", "safety_identifier": "u1"},
        {"user": "u1", "safety_identifier": None},
    ):
        assert (await read(world, in_json(members))).params.user == "u1"


@pytest.mark.parametrize("make", [in_json, in_form])
async def test_two_end_users_of_one_request_are_refused(world: World, make: Any) -> None:
    with pytest.raises(InvalidRequest, match="safety_identifier") as error:
        await read(world, make({"user": "u1", "safety_identifier": "u2"}))

    assert list(error.value.fields) == ["user"]


@pytest.mark.parametrize("name", ["user", "safety_identifier"])
async def test_an_end_user_that_is_no_text_is_refused(world: World, name: str) -> None:
    values: list[Any] = [0, False, [], {}]
    for value in values:
        with pytest.raises(InvalidRequest):
            await read(world, in_json({name: value}))
