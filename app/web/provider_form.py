"""Reading a submit in the provider's own words, as leniently as the provider does; the rules are those of any task."""

import asyncio
import json
import re
from contextlib import AsyncExitStack
from pathlib import Path
from typing import IO, Any

from fastapi import Request
from pydantic import ValidationError

from app.errors import InvalidRequest, MalformedRequest
from app.params import Params, TaskParams
from app.web.body import bounded, media_type
from app.web.large_json import SMALL, read_json, require_once
from app.web.problems import invalid
from app.web.task_form import JSON_TOO_LARGE, MAX_JSON_BYTES

FIELDS = (*(name for name in Params.model_fields if name != "model"), "webhook_url", "webhook_secret")
# Dropped in silence, these would cost a picture that is not the one that was asked for.
_UNSEEN_PICTURE = re.compile(r"input_image_\d+|image_prompt")


async def read_submit(
    request: Request, model: str, scratch: Path, stack: AsyncExitStack
) -> tuple[TaskParams, dict[str, IO[bytes]]]:
    """The parameters of a task for this model, and its large images by field; `stack` closes their files.

    Whatever the content type, the body is JSON; null stands for the default, and a field that the model has not is
    passed over, because clients send one form to many models. Raises TooLarge, MalformedRequest, InvalidRequest or
    UnsupportedMediaType.
    """
    media_type(request)  # of any kind, but not packed
    body, files = await read_json(bounded(request, MAX_JSON_BYTES, JSON_TOO_LARGE), scratch, stack)
    given = {name: value for name, value in (await _parse(body)).items() if value is not None}
    unseen = [name[:100] for name in given if name not in FIELDS and _UNSEEN_PICTURE.fullmatch(name)]
    if unseen:
        reason = "this model takes input_image and input_image_2 to input_image_4"
        raise InvalidRequest(f"{unseen[0]}: {reason}", {unseen[0]: reason})
    asked = {"model": model, **{name: given[name] for name in FIELDS if name in given}}
    if "webhook_url" in asked:
        asked["webhook_form"] = "provider"
    try:
        params = TaskParams.model_validate(asked)
    except ValidationError as error:
        raise invalid(error.errors(include_input=False, include_url=False)) from None
    require_once(params, files)
    return params, files


async def _parse(body: bytes) -> dict[str, Any]:
    try:
        given = json.loads(body) if len(body) <= SMALL else await asyncio.to_thread(json.loads, body)
    except (ValueError, RecursionError) as error:
        raise MalformedRequest("the body is not valid JSON") from error
    if not isinstance(given, dict):
        raise InvalidRequest("body: must be a JSON object", {"body": "must be a JSON object"})
    return given


def body_schema() -> dict[str, Any]:
    """The request's part of the OpenAPI document."""
    schema = TaskParams.model_json_schema()
    properties = {name: _or_null(schema["properties"][name], name) for name in FIELDS}
    content = {
        "schema": {"type": "object", "properties": properties, "required": ["prompt"]},
        "examples": {
            "text-to-image": {"value": {"prompt": "a lighthouse at dawn", "aspect_ratio": "16:9"}},
            "edit": {
                "value": {
                    "prompt": "make it black and white",
                    "input_image": "https://example.com/photo.jpg",
                    "output_format": "jpeg",
                }
            },
        },
    }
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def _or_null(schema: dict[str, Any], name: str) -> dict[str, Any]:
    if name == "prompt" or "anyOf" in schema:
        return schema
    told: dict[str, Any] = {key: schema[key] for key in ("title", "description", "default") if key in schema}
    return {**told, "anyOf": [{key: schema[key] for key in schema if key not in told}, {"type": "null"}]}
