"""Download results with limits on time and size, and verify that they are complete images."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from typing import IO

import httpx

from app.errors import ResultRefused
from app.images import inspect
from app.images.inspect import ImageInfo, NotAnImage
from app.resources import Resources
from app.security import result_links, ssrf
from app.store import sha256_of

# Generated images have about one megapixel. These limits are far above that, and far below the available memory.
_MAX_BYTES = 64 * 1024 * 1024
_MAX_PIXELS = 50_000_000
_MAX_REDIRECTS = 3
_BUFFER = 256 * 1024  # bytes to write in one call of a thread
_TIMEOUT = timedelta(minutes=2)  # of one download; leaves time to retry before the link expires


@dataclass(frozen=True, slots=True)
class Image:
    """A verified image file, and its key in the store. `bytes` is its size."""

    store_key: str
    sha256: str
    bytes: int
    info: ImageInfo


async def download(use: Resources, url: str) -> IO[bytes]:
    """Download a result into an unnamed file, which the caller must close. Follow at most three redirects.

    Raises ResultRefused, httpx.HTTPError, OSError (also TimeoutError).
    """
    file = use.spool.new_file()
    try:
        async with asyncio.timeout(_TIMEOUT.total_seconds()):
            await _fetch_into(use, url, file)
    except BaseException:
        file.close()
        raise
    return file


async def verify(use: Resources, file: IO[bytes], attempt: str) -> Image:
    """Decode the result of an attempt completely, once the limit of concurrent decoding allows it.

    Raises ResultRefused if it is not a complete image, or too large.
    """
    try:
        header = await asyncio.to_thread(inspect.inspect, file)
        async with use.decoding.taken(header.pixels if header.pixels <= _MAX_PIXELS else 0):
            return await asyncio.to_thread(_decode, file, attempt)
    except NotAnImage as error:
        raise ResultRefused(f"the result is not a usable image: {error}") from error


def _decode(file: IO[bytes], attempt: str) -> Image:
    info = inspect.decode(file, max_pixels=_MAX_PIXELS)
    size, sha256 = file.seek(0, 2), sha256_of(file)
    key = f"results/{sha256[:2]}/{sha256}.{attempt}.{inspect.EXTENSIONS[info.media_type]}"
    return Image(key, sha256, size, info)


async def _fetch_into(use: Resources, url: str, file: IO[bytes]) -> None:
    _require_usable(use, url)
    request = use.results.build_request("GET", url)
    for _ in range(1 + _MAX_REDIRECTS):
        response = await _send(use, request)
        try:
            if response.next_request is None:
                await _read_into(response, file)
                return
        finally:
            await response.aclose()
        request = response.next_request
        _require_usable(use, str(request.url))
    raise ResultRefused(f"the link redirects more than {_MAX_REDIRECTS} times")


def _require_usable(use: Resources, url: str) -> None:
    reason = result_links.unusable(url, hosts=use.result_hosts, origin=use.provider_origin)
    if reason is not None:
        raise ResultRefused(reason)


async def _send(use: Resources, request: httpx.Request) -> httpx.Response:
    try:
        return await use.results.send(request, stream=True)
    except ssrf.EgressRefused as error:
        if request.url.scheme == "http":
            raise ResultRefused(f"the link on {request.url.host} is not https") from error
        raise ResultRefused(f"the link's host {request.url.host} is unknown, or its address is not public") from error


async def _read_into(response: httpx.Response, file: IO[bytes]) -> None:
    if response.status_code != HTTPStatus.OK:
        raise ResultRefused(f"the link answered with HTTP {response.status_code}")
    size, buffer = 0, bytearray()
    async for chunk in response.aiter_raw():
        buffer += chunk
        size += len(chunk)
        if size > _MAX_BYTES:
            raise ResultRefused(f"the result is larger than {_MAX_BYTES // 1024**2} MB")
        if len(buffer) >= _BUFFER:
            await asyncio.to_thread(file.write, buffer)
            buffer.clear()
    await asyncio.to_thread(file.write, buffer)
