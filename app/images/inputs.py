"""Take the input images of a task: fetch or decode them, check them, and store them.

An image is checked before its task is recorded: a provider charges for what it makes of a damaged one.
"""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, nullcontext
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO

from app import ids
from app.catalog import ImageRules
from app.db.tables import unrecorded_images
from app.errors import DiskUnavailable, InvalidRequest
from app.images import inspect, pixels
from app.images.base64 import decode_into
from app.images.check import Checked, check
from app.images.fetch import fetch, too_large
from app.images.inspect import NotAnImage
from app.resources import Connections, Policy, Resources
from app.rules.request import StoredImage
from app.rules.shares import Share
from app.store import FolderStore
from app.telemetry import tracing

_MAX_WAITING_FETCHES = 512
_MAX_WAIT_S = 30


@dataclass(frozen=True, slots=True)
class TakenImage:
    """A stored input image, and warnings about what the provider may do with it."""

    stored: StoredImage
    warnings: tuple[str, ...]


async def take_inputs(
    use: Resources,
    limits: ImageRules,
    sources: Mapping[str, str | IO[bytes]],
    share: Share,
    store_keys: list[str],
    *,
    auto_orient: bool,
) -> list[TakenImage]:
    """Check and store the images of a task. None is stored unless all are usable.

    `limits`: those of the model.
    `sources`: an uploaded file, a base64 string or a URL for each field.
    `share`: of the application, in images that are fetched at once; its owner takes turns.
    `store_keys`: gets the key of each image that is stored, for the caller to delete from `unrecorded_images` with the
    record of the task or the request of their removal. The sweep removes the images whose keys stay there.
    `auto_orient`: turn an image upright, as its EXIF orientation says, before it is stored.

    Raises InvalidRequest or TooLarge, which name the field, LimitExceeded, and Unavailable if an image cannot be
    stored or too many are waiting.
    """
    try:
        async with AsyncExitStack() as stack:
            checked = {
                field: await _check(use, limits, field, source, share, stack, auto_orient=auto_orient)
                for field, source in sources.items()
            }
            keys = {field: _new_key(use, image) for field, image in checked.items()}
            if keys:
                await use.db.write(unrecorded_images.put, list(keys.values()), use.now())
            taken = []
            for field, image in checked.items():
                taken.append(await _put(use, limits, field, image, share, keys[field]))
                store_keys.append(keys[field])
            return taken
    except OSError as error:
        raise DiskUnavailable(f"an image cannot be stored: {error.strerror}") from error


async def _check(
    use: Resources,
    limits: ImageRules,
    field: str,
    source: str | IO[bytes],
    share: Share,
    stack: AsyncExitStack,
    *,
    auto_orient: bool,
) -> Checked:
    """Check an image; `stack` closes its temporary files."""
    delivered = ""  # the media type that the host of its URL stated
    if isinstance(source, str):
        file = await asyncio.to_thread(_temporary_file, use)
        stack.push_async_callback(asyncio.to_thread, file.close)
        delivered = await read_source(use, limits, field, source.strip(), file, share)
    else:
        file = source
    if file.seek(0, 2) > limits.max_bytes:
        raise too_large(field, limits.max_bytes)
    try:
        async with use.working.taken(share.owner):
            checked = await check(use, file, max_pixels=limits.max_pixels, auto_orient=auto_orient)
    except NotAnImage as error:
        is_other = delivered and not delivered.startswith("image/")
        reason = f"{error}: its URL delivered {delivered}" if is_other else str(error)
        raise InvalidRequest(f"{field}: {reason}", {field: reason}) from error
    if checked.file is not file:  # it was turned upright
        stack.push_async_callback(asyncio.to_thread, checked.file.close)
        if checked.bytes > limits.max_bytes:
            raise too_large(field, limits.max_bytes)
    return checked


def _temporary_file(use: Connections) -> IO[bytes]:
    return TemporaryFile(dir=use.scratch)


def is_address(source: str) -> bool:
    """Whether a string is the URL of an image."""
    return source.lstrip()[:8].lower().startswith(("http://", "https://"))


async def read_source(
    use: Resources, limits: ImageRules, field: str, source: str, file: IO[bytes], share: Share
) -> str:
    """Write the image that a string holds or names into a file; return the media type that its host states, or "".

    An application whose hosts are slow leaves room for the images of others.

    Raises InvalidRequest or TooLarge, which name the field, LimitExceeded, Overloaded, and OSError.
    """
    if is_address(source):
        own = use.fetching_of.taken(share.owner, share.limit, wait_s=use.uploads.wait_s)
        async with own, use.fetching.taken_in_time(1, max_waiting=_MAX_WAITING_FETCHES, seconds=_MAX_WAIT_S):
            return await fetch(use, field, source, file, limits.max_bytes)
    await asyncio.to_thread(decode_into, file, field, source)
    return ""


def _new_key(use: Policy, checked: Checked) -> str:
    """Return a key that no other task has, even for the same image, so that it can be erased with the task."""
    sha256, extension = checked.sha256, inspect.EXTENSIONS[checked.structure.media_type]
    return f"inputs/{sha256[:2]}/{sha256}.{ids.new_id('img', use.now())}.{extension}"


async def _put(use: Resources, limits: ImageRules, field: str, checked: Checked, share: Share, key: str) -> TakenImage:
    found = checked.structure
    # Syncing a file delays the commits of SQLite on the same disk. A bucket only makes its caller wait.
    is_local = isinstance(use.store, FolderStore)
    with tracing.span("store put", bytes=checked.bytes):
        async with use.working.taken(share.owner) if is_local else nullcontext():
            await use.store.put(key, checked.file)
    stored = StoredImage(field, key, checked.sha256, checked.bytes, found.media_type, found.width, found.height)
    return TakenImage(stored, tuple(_warnings(limits, field, checked)))


def _warnings(limits: ImageRules, field: str, checked: Checked) -> Iterator[str]:
    found = checked.structure
    if min(found.width, found.height) < limits.min_side:
        yield (
            f"{field} is {found.width}x{found.height}: BFL's own client requires sides of at least {limits.min_side}"
        )
    if checked.orientation != pixels.UPRIGHT:
        yield (
            f"{field} is not upright: the provider may ignore its EXIF orientation, {checked.orientation}; "
            "`auto_orient: true` turns it before it is sent"
        )
    if checked.structure.is_animated:
        yield f"{field} is animated: the provider may use only its first frame, or refuse it"
