"""What lies behind a provider's link: fetched with bounds on time and size, and known to be a whole image."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from typing import IO

from app.errors import ResultRefused
from app.images import inspect
from app.images.inspect import ImageInfo, NotAnImage
from app.resources import Resources
from app.security import result_links
from app.store import sha256_of

# The provider makes images of about one megapixel; these bounds are far above them and far below our memory.
_MAX_BYTES = 64 * 1024 * 1024
_MAX_PIXELS = 50_000_000
_AT_ONCE = 256 * 1024  # bytes for one errand of a thread
_PATIENCE = timedelta(minutes=2)  # with one download: a link that drips leaves time to try again


@dataclass(frozen=True, slots=True)
class Image:
    """What a checked file holds, and the key under which the store keeps it."""

    store_key: str
    sha256: str
    bytes: int
    info: ImageInfo


async def download(use: Resources, url: str) -> IO[bytes]:
    """The bytes behind a link, in a file without a name. Raises ResultRefused, httpx.HTTPError, OSError."""
    if not result_links.may_hold_result(url, hosts=use.result_hosts, provider_origin=use.provider_origin):
        raise ResultRefused("the link names a host that results may not come from: see FLUXHOOK_RESULT_HOSTS")
    file = use.spool.blank()
    try:
        await _fill(use, url, file)
    except BaseException:
        file.close()
        raise
    return file


async def check(use: Resources, file: IO[bytes], attempt: str) -> Image:
    """Decode all of what this attempt brought, when there is room.

    Raises ResultRefused for what is not a whole image of sane size.
    """
    try:
        claimed = await asyncio.to_thread(inspect.inspect, file)
        async with use.decoding.taken(claimed.pixels if claimed.pixels <= _MAX_PIXELS else 0):
            return await asyncio.to_thread(_decode, file, attempt)
    except NotAnImage as error:
        raise ResultRefused(f"the result cannot be kept: {error}") from error


def _decode(file: IO[bytes], attempt: str) -> Image:
    info = inspect.decode(file, max_pixels=_MAX_PIXELS)
    size, sha256 = file.seek(0, 2), sha256_of(file)
    key = f"results/{sha256[:2]}/{sha256}.{attempt}.{inspect.EXTENSIONS[info.media_type]}"
    return Image(key, sha256, size, info)


async def _fill(use: Resources, url: str, file: IO[bytes]) -> None:
    async with asyncio.timeout(_PATIENCE.total_seconds()), use.results.stream("GET", url) as response:
        if response.status_code != HTTPStatus.OK:
            raise ResultRefused(f"the link answered with HTTP {response.status_code}")
        size, held = 0, bytearray()
        async for piece in response.aiter_raw():
            held += piece
            size += len(piece)
            if size > _MAX_BYTES:
                raise ResultRefused(f"the result is larger than {_MAX_BYTES // 1024**2} MB")
            if len(held) >= _AT_ONCE:
                await asyncio.to_thread(file.write, held)
                held.clear()
        await asyncio.to_thread(file.write, held)
