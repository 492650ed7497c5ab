"""Reading the body of `POST /v1/tasks`: JSON, or multipart with files; bounded before it is parsed."""

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import IO

from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from app.errors import InvalidRequest, MalformedRequest, Unavailable, UnsupportedMediaType
from app.params import IMAGE_FIELDS, TaskParams
from app.web.body import bounded, media_type
from app.web.large_json import SMALL, read_json, require_once
from app.web.problems import invalid

# One image of the provider's 20 MB is 27 MB of base64; more goes by multipart, which has no third to carry for nothing.
MAX_JSON_BYTES = 36 * 1024 * 1024
# Four images of 20 MB and the other fields; files go to disk as they come.
MAX_MULTIPART_BYTES = 84 * 1024 * 1024
JSON_TOO_LARGE = f"JSON may have {MAX_JSON_BYTES // 1024**2} MB; larger images go by multipart or by address"
_MULTIPART_TOO_LARGE = f"multipart may have {MAX_MULTIPART_BYTES // 1024**2} MB"
_MAX_FIELD_BYTES = 1024 * 1024
# The one list: clients made from our OpenAPI document send a part for each of its names, people one with commas.
LIST_FIELD = "webhook_events"
# Form data is UTF-8 (RFC 7578). Python knows codecs that fail in ways of their own, or make lone surrogates.
_CHARSET = re.compile(r";\s*charset\s*=[^;]*", re.IGNORECASE)


async def read_task(request: Request, scratch: Path, stack: AsyncExitStack) -> tuple[TaskParams, dict[str, IO[bytes]]]:
    """The parameters, and by field the images that came as files or are as large; `stack` closes the files.

    Raises TooLarge, MalformedRequest, InvalidRequest, UnsupportedMediaType, or Unavailable on a full disk.
    """
    kind = media_type(request)
    if kind == "application/json":
        return await _read_json(bounded(request, MAX_JSON_BYTES, JSON_TOO_LARGE), scratch, stack)
    if kind == "multipart/form-data":
        return await _read_multipart(bounded(request, MAX_MULTIPART_BYTES, _MULTIPART_TOO_LARGE), stack)
    raise UnsupportedMediaType("send application/json or multipart/form-data")


async def _read_json(request: Request, scratch: Path, stack: AsyncExitStack) -> tuple[TaskParams, dict[str, IO[bytes]]]:
    body, files = await read_json(request, scratch, stack)
    try:
        if len(body) <= SMALL:
            params = TaskParams.model_validate_json(body, strict=True)
        else:
            params = await asyncio.to_thread(TaskParams.model_validate_json, body, strict=True)
    except ValidationError as error:
        raise invalid(error.errors(include_input=False, include_url=False)) from None
    require_once(params, files)
    return params, files


async def _read_multipart(request: Request, stack: AsyncExitStack) -> tuple[TaskParams, dict[str, IO[bytes]]]:
    headers = Headers({"content-type": _CHARSET.sub("", request.headers["content-type"])})
    parser = _Whole(
        headers, request.stream(), max_files=len(IMAGE_FIELDS), max_fields=20, max_part_size=_MAX_FIELD_BYTES
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise MalformedRequest(f"the multipart body cannot be read: {error.message}") from error
    except OSError as error:
        raise Unavailable(f"the files cannot be kept: {error.strerror}") from error
    stack.push_async_callback(form.close)
    fields, files = _sort(form)
    try:
        return TaskParams.model_validate_strings(fields), files
    except ValidationError as error:
        raise invalid(error.errors(include_input=False, include_url=False)) from None


class _Whole(MultiPartParser):
    """Insists on the closing boundary: without it the last part would be missing, and nobody told."""

    _ended = False

    def on_end(self) -> None:
        self._ended = True

    async def parse(self) -> FormData:
        self.stream = self._to_the_end(self.stream)
        return await super().parse()

    async def _to_the_end(self, stream: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        async for chunk in stream:
            yield chunk
        if not self._ended:
            raise MultiPartException("it ends before its closing boundary")


def _sort(form: FormData) -> tuple[dict[str, str], dict[str, IO[bytes]]]:
    """Texts and files by field. A file input that was left empty in a browser counts as not there."""
    fields: dict[str, str] = {}
    files: dict[str, IO[bytes]] = {}
    for name, value in form.multi_items():
        if name == LIST_FIELD and name in fields and isinstance(value, str):
            fields[name] += f",{value}"
        elif name in fields or name in files:
            raise InvalidRequest(f"{name[:100]}: given more than once", {name[:100]: "given more than once"})
        elif isinstance(value, str):
            fields[name] = value
        elif name not in IMAGE_FIELDS:
            raise InvalidRequest(f"{name[:100]}: takes no file", {name[:100]: "takes no file"})
        elif not _left_empty(value):
            files[name] = value.file
    return fields, files


def _left_empty(upload: UploadFile) -> bool:
    return not upload.filename and not upload.size
