"""Reading the body of a provider-compatible submit: as lenient as the provider, with the same rules as any task."""

import asyncio
import json
from contextlib import AsyncExitStack
from typing import IO, Any, NamedTuple

from fastapi import Request
from pydantic import JsonValue, ValidationError

from app.errors import InvalidRequest, MalformedRequest
from app.params import COMPATIBLE_FIELDS, CompatibleParams, TaskParams
from app.store import Uploads
from app.store.uploads import SMALL
from app.web import unknown_fields
from app.web.body import bounded, json_text, media_type
from app.web.large_json import MAX_JSON_BYTES, read_json
from app.web.problems import invalid
from app.web.task_form import JSON_TOO_LARGE


class ReadSubmit(NamedTuple):
    """A submit: its parameters, its large images by field, and warnings about fields that may have no effect."""

    params: CompatibleParams
    files: dict[str, IO[bytes]]
    warnings: tuple[str, ...]


async def read_submit(request: Request, model: str, uploads: Uploads, stack: AsyncExitStack) -> ReadSubmit:
    """Read a task for this model; `stack` closes its files.

    The body is JSON, whatever its content type. Null and blank text stand for the default. Clients send the fields of
    other models too: unknown fields are passed on if they cannot change which image is made, see `unknown_fields`.

    Raises TooLarge, MalformedRequest, InvalidRequest, UnsupportedMediaType, Unavailable if the disk cannot be written,
    or Overloaded.
    """
    media_type(request)  # every type is accepted, a content encoding is not
    warnings = unknown_fields.check_query(request.query_params.multi_items())
    body, files = await read_json(bounded(request, MAX_JSON_BYTES, JSON_TOO_LARGE), uploads, stack)
    fields = await _parse(json_text(body))
    unknown = unknown_fields.sort_out(fields, model)
    known = {name: fields[name] for name in COMPATIBLE_FIELDS if name in fields and not _is_default(name, fields[name])}
    form = {"webhook_form": "provider"} if "webhook_url" in known else {}
    try:
        params = CompatibleParams.model_validate({"model": model, **unknown.passed_on, **known, **form})
    except ValidationError as error:
        raise invalid(error.errors(include_input=False, include_url=False)) from None
    return ReadSubmit(params, files, (*warnings, *unknown.warnings))


def _is_default(name: str, value: JsonValue) -> bool:
    """Whether a value stands for the default of its field: null and, except in a prompt, blank text."""
    return value is None or (name != "prompt" and isinstance(value, str) and not value.strip())


async def _parse(body: bytes) -> dict[str, JsonValue]:
    try:
        parsed = _load(body) if len(body) <= SMALL else await asyncio.to_thread(_load, body)
    except (ValueError, RecursionError) as error:
        raise MalformedRequest("the body is not valid JSON") from error
    if not isinstance(parsed, dict):
        raise InvalidRequest("body: must be a JSON object", {"body": "must be a JSON object"})
    return parsed


def _load(body: bytes) -> JsonValue:
    parsed: JsonValue = json.loads(body)
    return parsed


def body_schema() -> dict[str, Any]:
    """Return the OpenAPI description of the request body."""
    schema = TaskParams.model_json_schema()
    properties = {name: _or_null(schema["properties"][name], name) for name in COMPATIBLE_FIELDS}
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
