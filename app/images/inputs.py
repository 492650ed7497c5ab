"""Take an input image: fetch or decode it, check it, and store it."""

import asyncio
from tempfile import TemporaryFile
from typing import IO

from app import ids
from app.errors import InvalidRequest, Unavailable
from app.images import inspect
from app.images.base64 import Inline
from app.images.fetch import fetch, too_large
from app.images.inspect import ImageInfo, NotAnImage
from app.provider import ProviderSpec
from app.resources import Resources
from app.rules.request import StoredImage
from app.store import sha256_of
from app.telemetry import tracing


async def store_input(use: Resources, spec: ProviderSpec, field: str, source: str | IO[bytes]) -> StoredImage:
    """Store an image from an uploaded file, a base64 string or a URL."""
    if not isinstance(source, str):
        return await _check_and_put(use, spec, field, source)
    try:
        with await asyncio.to_thread(_temporary_file, use) as file:
            delivered = ""
            source = source.strip()
            if source[:8].lower().startswith(("http://", "https://")):
                delivered = await fetch(use, field, source, file, spec.max_image_bytes)
            else:
                await asyncio.to_thread(_decode_into, file, field, source)
            return await _check_and_put(use, spec, field, file, delivered)
    except OSError as error:
        raise Unavailable(f"an image cannot be stored: {error.strerror}") from error


def _temporary_file(use: Resources) -> IO[bytes]:
    return TemporaryFile(dir=use.scratch)


def _decode_into(file: IO[bytes], field: str, text: str) -> None:
    image = Inline(field, file)
    image.feed(text)
    image.end()


async def _check_and_put(
    use: Resources, spec: ProviderSpec, field: str, file: IO[bytes], delivered: str = ""
) -> StoredImage:
    """Check an image and store it. `delivered`: the media type that the host of its URL stated."""
    size = file.seek(0, 2)
    if size > spec.max_image_bytes:
        raise too_large(field, spec.max_image_bytes)
    try:
        info, sha256 = await asyncio.to_thread(_inspect, file)
    except NotAnImage as error:
        is_other = delivered and not delivered.startswith("image/")
        reason = f"{error}: its URL delivered {delivered}" if is_other else str(error)
        raise InvalidRequest(f"{field}: {reason}", {field: reason}) from error
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
