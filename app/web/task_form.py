"""Reading the body of `POST /v1/tasks`: JSON, or multipart with files."""

import asyncio
from collections.abc import Collection
from contextlib import AsyncExitStack
from typing import Any

from fastapi import Request

from app.catalog import DEFAULT_MODEL, Catalog, Model
from app.errors import InvalidRequest, UnsupportedMediaType
from app.params import OPTIONS, TaskParams
from app.rules.json_value import JsonValue
from app.store.uploads import SMALL, Places
from app.web.body import bounded, json_text, media_type
from app.web.large_json import MAX_JSON_BYTES, parse, read_json
from app.web.members import Files, Leniency, options_from_json, options_from_texts, to_params
from app.web.multipart import read_form

JSON_TOO_LARGE = (
    f"a JSON body must not exceed {MAX_JSON_BYTES // 1024**2} MB: send larger images as multipart files or by URL"
)


async def read_task(
    request: Request, catalog: Catalog, uploads: Places, stack: AsyncExitStack
) -> tuple[TaskParams, Files]:
    """Return the parameters, and by slot the images that are files or long base64 texts; `stack` closes the files.

    Raises TooLarge, MalformedRequest, InvalidRequest, UnsupportedMediaType, Unavailable if the disk cannot be written,
    or Overloaded.
    """
    content_type = media_type(request)
    if request.query_params:
        name = next(iter(request.query_params))[:100]
        reason = "must be in the body, not in the query"
        raise InvalidRequest(f"{name}: {reason}", {name: reason})
    if content_type == "application/json":
        return await _read_json(request, catalog, uploads, stack)
    if content_type == "multipart/form-data":
        return await _read_multipart(request, catalog, uploads, stack)
    raise UnsupportedMediaType("the content type must be application/json or multipart/form-data")


async def read_members(
    request: Request, catalog: Catalog, uploads: Places, stack: AsyncExitStack, pictures: Collection[str] = ()
) -> tuple[dict[str, JsonValue], Files]:
    """Return the members of a JSON body, and its long images by member. Raises the errors of `read_task`.

    `pictures`: members with images in OpenAI's form.
    """
    limited = bounded(request, MAX_JSON_BYTES, JSON_TOO_LARGE)
    body, files = await read_json(limited, catalog, uploads, stack, pictures)
    body = json_text(body)
    members = parse(body) if len(body) <= SMALL else await asyncio.to_thread(parse, body)
    if not isinstance(members, dict):
        raise InvalidRequest("body: must be a JSON object", {"body": "must be a JSON object"})
    return members, files


async def _read_json(
    request: Request, catalog: Catalog, uploads: Places, stack: AsyncExitStack
) -> tuple[TaskParams, Files]:
    members, files = await read_members(request, catalog, uploads, stack)
    model = _model(catalog, members)
    return to_params(catalog, model, members, files, options_from_json, OPTIONS)


def _model(catalog: Catalog, members: dict[str, Any]) -> Model:
    """Take the model out of the members, and return its row. Raises InvalidRequest."""
    model_id = members.pop("model", None)
    if model_id is not None and not isinstance(model_id, str):
        raise InvalidRequest("model: must be text", {"model": "must be text"})
    return catalog.model(DEFAULT_MODEL if model_id is None else model_id)


async def _read_multipart(
    request: Request, catalog: Catalog, uploads: Places, stack: AsyncExitStack
) -> tuple[TaskParams, Files]:
    fields, files = await read_form(request, catalog, uploads, stack)
    model = _model(catalog, fields)
    return to_params(catalog, model, fields, files, options_from_texts, OPTIONS, leniency=Leniency.TEXTS)
