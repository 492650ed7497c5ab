"""Download results with limits on time and size, and examine whether they are complete images."""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from http import HTTPStatus
from typing import IO

import httpx

from app.errors import ResultRefused
from app.images import content_credentials, examine, thumbnail
from app.images.inspect import ImageInfo
from app.images.result_threads import in_result_thread
from app.resources import Resources
from app.security import redirects, result_links, ssrf
from app.store import sha256_of

# Generated images have about one megapixel. These limits are far above that, and far below the available memory.
_MAX_BYTES = 64 * 1024 * 1024
MAX_PIXELS = 50_000_000
_BUFFER = 256 * 1024  # bytes to write in one call of a thread
_TIMEOUT = timedelta(minutes=2)  # of one download; leaves time to retry before the link expires


WebP = bytes


@dataclass(frozen=True, slots=True)
class Downloaded:
    """The bytes of a result, which the caller must close. `whole`: the transfer proves that none is missing.

    `spooled`: they come from the spool.
    """

    file: IO[bytes]
    whole: bool
    spooled: bool = False


@dataclass(frozen=True, slots=True)
class Image:
    """An image file, and its key in the store. `bytes` is its size.

    `problem` is why it is not verified, or None. `has_credentials`: see `content_credentials`. The size in pixels is
    0 x 0 if it could not be read.
    """

    store_key: str
    sha256: str
    bytes: int
    info: ImageInfo
    problem: str | None = None
    has_credentials: bool = False


async def download(use: Resources, url: str) -> Downloaded:
    """Download a result into an unnamed file. Follow at most three redirects.

    Raises ResultRefused, httpx.HTTPError, OSError (also TimeoutError).
    """
    file = use.spool.new_file()
    try:
        async with asyncio.timeout(_TIMEOUT.total_seconds()):
            whole = await _fetch_into(use, url, file)
    except BaseException:
        file.close()
        raise
    return Downloaded(file, whole)


async def verify(use: Resources, downloaded: Downloaded, attempt_id: str, refused: Collection[str] = ()) -> Image:
    """Decode the result of an attempt completely, once the limit of concurrent decoding allows it.

    What is wrong with a whole result is stated in the image. Raises ResultRefused for text, such as an error page, and
    for an image that is not verified and may have been cut off in transit: a retry may help. `refused`: the reasons of
    earlier refusals. The same bytes again are all that the link delivers, so they count as whole.
    """
    file, new_file = downloaded.file, use.spool.new_file
    info = await asyncio.to_thread(examine.read_header, file, new_file)
    if info.media_type == examine.UNKNOWN and await asyncio.to_thread(examine.is_text, file):
        raise ResultRefused("the link delivered text or nothing, not an image")
    async with use.decoding.taken(info.pixels if info.pixels <= MAX_PIXELS else 0):
        image = await in_result_thread(_examined, file, new_file, info, attempt_id)
    if image.problem is not None and not downloaded.whole:
        reason = f"the result is not a whole image: {image.problem} ({image.bytes} bytes, SHA-256 {image.sha256[:16]})"
        if reason not in refused:
            raise ResultRefused(reason)
    return image


async def thumbnail_of(use: Resources, image: Image, file: IO[bytes]) -> WebP | None:
    """Return a small picture of a verified image, once the limit of concurrent decoding allows it; None of another."""
    if image.problem is not None:
        return None
    async with use.decoding.taken(image.info.pixels):
        return await in_result_thread(partial(thumbnail.make, file, max_pixels=MAX_PIXELS))


def _examined(file: IO[bytes], new_file: Callable[[], IO[bytes]], info: ImageInfo, attempt_id: str) -> Image:
    problem = examine.find_problem(file, new_file, info, max_pixels=MAX_PIXELS)
    size, sha256 = file.seek(0, 2), sha256_of(file)
    key = f"results/{sha256[:2]}/{sha256}.{attempt_id}.{examine.extension_of(info.media_type)}"
    return Image(key, sha256, size, info, problem, content_credentials.are_present(file))


async def _fetch_into(use: Resources, url: str, file: IO[bytes]) -> bool:
    """Write the body of the final response into the file. Return whether it is known to be whole."""

    def verify(link: httpx.URL) -> None:
        reason = result_links.unusable(str(link), hosts=use.result_hosts, origins=use.accounts.origins)
        if reason is not None:
            raise ResultRefused(reason)

    try:
        async with redirects.get(use.results, url, verify) as response:
            return await _read_into(response, file)
    except ssrf.EgressRefused as error:
        host = error.request.url.host
        if error.request.url.scheme == "http":
            raise ResultRefused(f"the link on {host} is not https") from error
        raise ResultRefused(f"the link's host {host} is unknown, or its address is not public") from error
    except httpx.TooManyRedirects as error:
        raise ResultRefused(f"the link redirects more than {redirects.MAX_REDIRECTS} times") from error
    except httpx.InvalidURL as error:
        raise ResultRefused("the link is not a usable http(s) URL") from error


async def _read_into(response: httpx.Response, file: IO[bytes]) -> bool:
    if response.status_code != HTTPStatus.OK:
        raise ResultRefused(f"the link answered with HTTP {response.status_code}")
    size, buffer = 0, bytearray()
    # Decodes a content encoding, which some servers apply unasked.
    async for chunk in response.aiter_bytes():
        buffer += chunk
        size += len(chunk)
        if size > _MAX_BYTES:
            raise ResultRefused(f"the result is larger than {_MAX_BYTES // 1024**2} MB")
        if len(buffer) >= _BUFFER:
            await asyncio.to_thread(file.write, buffer)
            buffer.clear()
    await asyncio.to_thread(file.write, buffer)
    length, received = response.headers.get("content-length"), response.num_bytes_downloaded
    if length is not None and length != str(received):
        raise ResultRefused(f"the download ended after {received} of {length} bytes")
    # The end of a chunked body is marked. Without a length, the end of the connection is all that is known.
    return length is not None or "transfer-encoding" in response.headers
