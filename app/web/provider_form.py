"""Reading the body of a provider-compatible submit: as lenient as the provider, with the same rules as any task."""

import asyncio
import json
import re
from contextlib import AsyncExitStack
from typing import IO, Any

from fastapi import Request
from pydantic import ValidationError

from app.errors import InvalidRequest, MalformedRequest
from app.params import Params, TaskParams
from app.store import Uploads
from app.store.uploads import SMALL
from app.web.body import bounded, media_type
from app.web.large_json import MAX_JSON_BYTES, read_json
from app.web.problems import invalid
from app.web.task_form import JSON_TOO_LARGE

FIELDS = (*(name for name in Params.model_fields if name != "model"), "webhook_url", "webhook_secret", "auto_orient")
# If these were ignored, the caller would pay for an image that does not use them.
_UNSUPPORTED_IMAGE = re.compile(r"input_image_\d+|image_prompt")


async def read_submit(
    request: Request, model: str, uploads: Uploads, stack: AsyncExitStack
) -> tuple[TaskParams, dict[str, IO[bytes]]]:
    """Return the parameters of a task for this model, and its large images by field in files that `stack` closes.

    The body is JSON, whatever its content type. Null stands for the default, and unknown fields are ignored, because
    clients send the fields of other models too.

    Raises TooLarge, MalformedRequest, InvalidRequest, UnsupportedMediaType, Unavailable if the disk cannot be written,
    or Overloaded.
    """
    media_type(request)  # every type is accepted, a content encoding is not
    body, files = await read_json(bounded(request, MAX_JSON_BYTES, JSON_TOO_LARGE), uploads, stack)
    fields = {name: value for name, value in (await _parse(body)).items() if value is not None}
    unsupported = [name[:100] for name in fields if name not in FIELDS and _UNSUPPORTED_IMAGE.fullmatch(name)]
    if unsupported:
        reason = "this model accepts input_image and input_image_2 to input_image_4"
        raise InvalidRequest(f"{unsupported[0]}: {reason}", {unsupported[0]: reason})
    values = {"model": model, **{name: fields[name] for name in FIELDS if name in fields}}
    if "webhook_url" in values:
        values["webhook_form"] = "provider"
    try:
        params = TaskParams.model_validate(values)
    except ValidationError as error:
        raise invalid(error.errors(include_input=False, include_url=False)) from None
    return params, files


async def _parse(body: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(body) if len(body) <= SMALL else await asyncio.to_thread(json.loads, body)
    except (ValueError, RecursionError) as error:
        raise MalformedRequest("the body is not valid JSON") from error
    if not isinstance(parsed, dict):
        raise InvalidRequest("body: must be a JSON object", {"body": "must be a JSON object"})
    return parsed


def body_schema() -> dict[str, Any]:
    """Return the OpenAPI description of the request body."""
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
    annotations: dict[str, Any] = {key: schema[key] for key in ("title", "description", "default") if key in schema}
    return {**annotations, "anyOf": [{key: schema[key] for key in schema if key not in annotations}, {"type": "null"}]}
