"""Take an input image: fetch or decode it, check it, and store it.

An image is checked before its task is recorded: a provider charges for what it makes of a damaged one.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO

from app import ids
from app.errors import InvalidRequest, Unavailable
from app.images import inspect, pixels
from app.images.base64 import Inline
from app.images.check import Checked, check
from app.images.fetch import fetch, too_large
from app.images.inspect import NotAnImage
from app.provider import ProviderSpec
from app.resources import Resources
from app.rules.request import StoredImage
from app.telemetry import tracing

_MAX_WAITING_FETCHES = 512
_MAX_WAIT_S = 30


@dataclass(frozen=True, slots=True)
class TakenImage:
    """A stored input image, and warnings about what the provider may do with it."""

    stored: StoredImage
    warnings: tuple[str, ...]


async def take_input(
    use: Resources, spec: ProviderSpec, field: str, source: str | IO[bytes], *, auto_orient: bool
) -> TakenImage:
    """Check and store an image from an uploaded file, a base64 string or a URL.

    `auto_orient`: turn an image upright, as its EXIF orientation says, before it is stored.

    Raises InvalidRequest or TooLarge, which name the field, and Unavailable if the image cannot be stored or too many
    images are waiting.
    """
    try:
        if not isinstance(source, str):
            return await _check_and_put(use, spec, field, source, auto_orient=auto_orient)
        with await asyncio.to_thread(_temporary_file, use) as file:
            delivered = await _write(use, spec, field, source.strip(), file)
            return await _check_and_put(use, spec, field, file, delivered, auto_orient=auto_orient)
    except OSError as error:
        raise Unavailable(f"an image cannot be stored: {error.strerror}") from error


def _temporary_file(use: Resources) -> IO[bytes]:
    return TemporaryFile(dir=use.scratch)


async def _write(use: Resources, spec: ProviderSpec, field: str, source: str, file: IO[bytes]) -> str:
    """Write the image that a string holds or names into a file; return the media type that its host states, or ""."""
    if source[:8].lower().startswith(("http://", "https://")):
        async with use.fetching.taken_in_time(1, max_waiting=_MAX_WAITING_FETCHES, seconds=_MAX_WAIT_S):
            return await fetch(use, field, source, file, spec.max_image_bytes)
    await asyncio.to_thread(_decode_into, file, field, source)
    return ""


def _decode_into(file: IO[bytes], field: str, text: str) -> None:
    image = Inline(field, file)
    image.feed(text)
    image.end()


async def _check_and_put(
    use: Resources, spec: ProviderSpec, field: str, file: IO[bytes], delivered: str = "", *, auto_orient: bool
) -> TakenImage:
    """Check an image and store it. `delivered`: the media type that the host of its URL stated."""
    if file.seek(0, 2) > spec.max_image_bytes:
        raise too_large(field, spec.max_image_bytes)
    try:
        checked = await check(use, file, max_pixels=spec.max_image_pixels, auto_orient=auto_orient)
    except NotAnImage as error:
        is_other = delivered and not delivered.startswith("image/")
        reason = f"{error}: its URL delivered {delivered}" if is_other else str(error)
        raise InvalidRequest(f"{field}: {reason}", {field: reason}) from error
    try:
        stored = await _put(use, spec, field, checked)
    finally:
        if checked.file is not file:
            await asyncio.to_thread(checked.file.close)
    return TakenImage(stored, tuple(_warnings(field, checked)))


async def _put(use: Resources, spec: ProviderSpec, field: str, checked: Checked) -> StoredImage:
    if checked.bytes > spec.max_image_bytes:  # it grew as it was turned upright
        raise too_large(field, spec.max_image_bytes)
    found, sha256 = checked.structure, checked.sha256
    # The key is unique to the task, even if other tasks have the same image, so that it can be erased with the task.
    key = f"inputs/{sha256[:2]}/{sha256}.{ids.new_id('img', use.now())}.{inspect.EXTENSIONS[found.media_type]}"
    with tracing.span("store put", bytes=checked.bytes):
        await use.store.put(key, checked.file)
    return StoredImage(field, key, sha256, checked.bytes, found.media_type, found.width, found.height)


def _warnings(field: str, checked: Checked) -> Iterator[str]:
    if checked.orientation != pixels.UPRIGHT:
        yield (
            f"{field} is not upright: the provider may ignore its EXIF orientation, {checked.orientation}; "
            "`auto_orient: true` turns it before it is sent"
        )
    if checked.structure.is_animated:
        yield f"{field} is animated: the provider may use only its first frame, or refuse it"
