"""Take an input image: fetch or decode it, check it, and store it."""

import asyncio
from http import HTTPStatus
from tempfile import TemporaryFile
from typing import IO

import httpx

from app import ids
from app.errors import InvalidRequest, TooLarge, Unavailable
from app.images import inspect
from app.images.base64 import Inline
from app.images.inspect import ImageInfo, NotAnImage
from app.provider import ProviderSpec
from app.resources import Resources
from app.rules.request import StoredImage
from app.store import sha256_of
from app.telemetry import tracing

_FETCH_S = 60  # for a whole image, so that a slow host cannot keep a request open


async def store_input(use: Resources, spec: ProviderSpec, field: str, source: str | IO[bytes]) -> StoredImage:
    """Store an image from an uploaded file, a base64 string or a URL."""
    if not isinstance(source, str):
        return await _check_and_put(use, spec, field, source)
    try:
        with await asyncio.to_thread(_temporary_file, use) as file:
            if source[:8].lower().startswith(("http://", "https://")):
                await _fetch(use, spec, field, source, file)
            else:
                await asyncio.to_thread(_decode_into, file, field, source)
            return await _check_and_put(use, spec, field, file)
    except OSError as error:
        raise Unavailable(f"an image cannot be stored: {error.strerror}") from error


def _temporary_file(use: Resources) -> IO[bytes]:
    return TemporaryFile(dir=use.scratch)


def _decode_into(file: IO[bytes], field: str, text: str) -> None:
    image = Inline(field, file)
    image.feed(text)
    image.end()


async def _fetch(use: Resources, spec: ProviderSpec, field: str, url: str, file: IO[bytes]) -> None:
    """Download an image from a client's URL. The error is the same for a blocked host as for an unreachable one."""
    try:
        async with asyncio.timeout(_FETCH_S), use.web.stream("GET", url) as response:
            if response.status_code != HTTPStatus.OK:
                raise _fetch_failed(field, f"its URL answered with HTTP {response.status_code}")
            async for piece in response.aiter_raw():
                file.write(piece)
                _check_size(spec, field, file.tell())
    except (
        httpx.HTTPError,
        httpx.InvalidURL,
        UnicodeError,
        TimeoutError,
    ) as error:  # Unicode: a bad `xn--` name
        raise _fetch_failed(field, "its URL cannot be reached") from error


def _fetch_failed(field: str, reason: str) -> InvalidRequest:
    return InvalidRequest(f"{field}: {reason}", {field: reason})


def _check_size(spec: ProviderSpec, field: str, size: int) -> None:
    if size > spec.max_image_bytes:
        limit = spec.max_image_bytes // 1024**2
        raise TooLarge(f"{field}: an image may have at most {limit} MB", {field: f"more than {limit} MB"})


async def _check_and_put(use: Resources, spec: ProviderSpec, field: str, file: IO[bytes]) -> StoredImage:
    size = file.seek(0, 2)
    _check_size(spec, field, size)
    try:
        info, sha256 = await asyncio.to_thread(_inspect, file)
    except NotAnImage as error:
        raise InvalidRequest(f"{field}: {error}", {field: str(error)}) from error
    if info.pixels > spec.max_image_pixels:
        reason = f"{info.width}x{info.height} is more than {spec.max_image_pixels // 10**6} megapixels"
        raise InvalidRequest(f"{field}: {reason}", {field: reason})
    # The key is unique to the task, even if other tasks have the same image, so that it can be erased with the task.
    key = f"inputs/{sha256[:2]}/{sha256}.{ids.new_id('img', use.now())}.{inspect.EXTENSIONS[info.media_type]}"
    with tracing.span("store put", bytes=size):
        await use.store.put(key, file)
    return StoredImage(field, key, sha256, size, info.media_type, info.width, info.height)


def _inspect(file: IO[bytes]) -> tuple[ImageInfo, str]:
    return inspect.inspect(file), sha256_of(file)
