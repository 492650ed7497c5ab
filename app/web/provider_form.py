"""Reading the body of a provider-compatible submit: as lenient as the provider, with the same rules as any task."""

import asyncio
import json
from contextlib import AsyncExitStack
from dataclasses import replace

from fastapi import Request

from app.catalog import Catalog, Model
from app.errors import InvalidRequest, MalformedRequest
from app.params import COMPATIBLE_OPTIONS, TaskParams
from app.rules.json_value import JsonValue
from app.store.uploads import SMALL, Places
from app.web import unknown_fields
from app.web.body import bounded, json_text, media_type
from app.web.foreign_fields import is_empty
from app.web.large_json import MAX_JSON_BYTES, read_json
from app.web.members import Files, Leniency, options_from_python, to_params
from app.web.task_form import JSON_TOO_LARGE


async def read_submit(
    request: Request, catalog: Catalog, model: Model, uploads: Places, stack: AsyncExitStack
) -> tuple[TaskParams, Files]:
    """Read a task for this model, and its large images by slot; `stack` closes their files.

    The body is JSON, whatever its content type. Null and blank text stand for the default. Clients send the fields of
    other models too: unknown fields are passed on if they cannot change which image is made, see `unknown_fields`.

    Raises TooLarge, MalformedRequest, InvalidRequest, UnsupportedMediaType, Unavailable if the disk cannot be written,
    or Overloaded.
    """
    media_type(request)  # every type is accepted, a content encoding is not
    warnings = unknown_fields.check_query(request.query_params.multi_items(), model)
    body, files = await read_json(bounded(request, MAX_JSON_BYTES, JSON_TOO_LARGE), catalog, uploads, stack)
    fields = await _parse(json_text(body))
    known = {*model.properties, *COMPATIBLE_OPTIONS}
    given = {name: value for name, value in fields.items() if not (name in known and _is_default(name, value))}
    params, kept = to_params(
        catalog, model, given, files, options_from_python, COMPATIBLE_OPTIONS, leniency=Leniency.PROVIDER
    )
    if params.options.webhook_url is not None:
        params = replace(params, options=params.options.model_copy(update={"webhook_form": "provider"}))
    if catalog.get(model.id) is None:
        warnings = (f"model: {model.id} is not in the catalog; the request is passed on to the provider", *warnings)
    return replace(params, warnings=(*warnings, *params.warnings)), kept


def _is_default(name: str, value: JsonValue) -> bool:
    """Whether a value stands for the default of its field: null, no items and, except in a prompt, blank text."""
    return is_empty(value) and (name != "prompt" or value is None)


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
