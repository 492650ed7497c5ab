"""Reading the body of `POST /v1/tasks`: JSON, or multipart with files; bounded before it is parsed."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AsyncExitStack
from typing import IO, Any

from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from app.errors import InvalidRequest, MalformedRequest, TooLarge, UnsupportedMediaType
from app.params import IMAGE_FIELDS, Params
from app.web.problems import invalid

# One image of the provider's 20 MB is 27 MB of base64; JSON is held in memory, so more goes by multipart.
MAX_JSON_BYTES = 36 * 1024 * 1024
# Four images of 20 MB and the other fields; files go to disk as they come.
MAX_MULTIPART_BYTES = 84 * 1024 * 1024
_MAX_FIELD_BYTES = 1024 * 1024
_IN_A_THREAD = 64 * 1024  # smaller bodies are parsed sooner than a thread is asked

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


async def read_task(request: Request, stack: AsyncExitStack) -> tuple[Params, dict[str, IO[bytes]]]:
    """The parameters, and the uploaded files by field; `stack` closes the files.

    Raises TooLarge, MalformedRequest, InvalidRequest or UnsupportedMediaType.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("send the body without a content-encoding")
    if media_type == "application/json" or media_type.endswith("+json"):
        return await _read_json(_bounded(request, MAX_JSON_BYTES)), {}
    if media_type == "multipart/form-data":
        return await _read_multipart(_bounded(request, MAX_MULTIPART_BYTES), stack)
    raise UnsupportedMediaType("send application/json or multipart/form-data")


def _bounded(request: Request, limit: int) -> Request:
    """The same request, whose body ends in TooLarge past `limit` bytes."""
    announced = request.headers.get("content-length", "")
    too_large = TooLarge(f"the body may have {limit // 1024**2} MB; larger images go by multipart or by address")
    if announced.isdecimal() and int(announced[:20]) > limit:
        raise too_large
    received = 0

    async def receive() -> MutableMapping[str, Any]:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise too_large
        return message

    return Request(request.scope, receive)


async def _read_json(request: Request) -> Params:
    body = await request.body()
    try:
        if len(body) < _IN_A_THREAD:
            return Params.model_validate_json(body, strict=True)
        return await asyncio.to_thread(Params.model_validate_json, body, strict=True)
    except ValidationError as error:
        raise invalid(error.errors(include_input=False, include_url=False)) from None


async def _read_multipart(request: Request, stack: AsyncExitStack) -> tuple[Params, dict[str, IO[bytes]]]:
    try:
        form = await stack.enter_async_context(
            request.form(max_files=len(IMAGE_FIELDS), max_fields=20, max_part_size=_MAX_FIELD_BYTES)
        )
    except HTTPException as error:
        raise MalformedRequest(f"the multipart body cannot be read: {error.detail}") from error
    fields, files = _sort(form)
    try:
        return Params.model_validate_strings(fields), files
    except ValidationError as error:
        raise invalid(error.errors(include_input=False, include_url=False)) from None


def _sort(form: FormData) -> tuple[dict[str, str], dict[str, IO[bytes]]]:
    """Texts and files by field. A file input that was left empty in a browser counts as not there."""
    fields: dict[str, str] = {}
    files: dict[str, IO[bytes]] = {}
    for name, value in form.multi_items():
        if name in fields or name in files:
            raise InvalidRequest(f"{name[:100]}: given more than once", {name[:100]: "given more than once"})
        if isinstance(value, str):
            fields[name] = value
        elif name not in IMAGE_FIELDS:
            raise InvalidRequest(f"{name[:100]}: takes no file", {name[:100]: "takes no file"})
        elif not _left_empty(value):
            files[name] = value.file
    return fields, files


def _left_empty(upload: UploadFile) -> bool:
    return not upload.filename and not upload.size
