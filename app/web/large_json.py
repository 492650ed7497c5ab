"""Reading a JSON body that contains images: it goes to disk as it arrives, and one thread parses one body at a time.

So the memory in use is that of the largest body, however many arrive. The images go from the parsed body to files.
"""

import asyncio
from collections.abc import AsyncGenerator, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from itertools import islice
from typing import IO, Any

from fastapi import Request
from pydantic import ConfigDict, TypeAdapter

from app.catalog import Catalog
from app.errors import DiskUnavailable, InvalidRequest, MalformedRequest, TooLarge
from app.images.base64 import decode_into, decode_plain
from app.store.uploads import SMALL, Places
from app.web.body import declared_length, json_text
from app.web.long_texts import LONG, Shortened, shorten

# One image of the provider's maximum of 20 MB is 27 MB of base64. Multipart avoids the third that base64 adds.
MAX_JSON_BYTES = 36 * 1024 * 1024
_CHUNK = 256 * 1024  # bytes written to the disk in one call
_MAX_REST = 1024 * 1024  # bytes, the limit of a form field too
_REFERENCE = "image_url"  # the member of an object in OpenAI's form that is an image
_MAX_VALUES = 200_000  # an empty list of two bytes takes 64 in memory
_PARSER = ThreadPoolExecutor(1, thread_name_prefix="large-json")
# It holds the GIL for half as long as the standard library's parser, and takes half the memory.
_JSON: TypeAdapter[Any] = TypeAdapter(Any, config=ConfigDict(ser_json_inf_nan="constants"))


async def read_json(
    request: Request, catalog: Catalog, uploads: Places, stack: AsyncExitStack, pictures: Collection[str] = ()
) -> tuple[bytes, dict[str, IO[bytes]]]:
    """Return the body without its long images, and these images by member, in files that `stack` closes.

    An image of a list is called `member[0]` and so on. The body is JSON with null in place of each long image. The
    reader of the route validates it. `pictures`: members that may have images in OpenAI's form, as text or as an object
    with `image_url`.

    Raises InvalidRequest for invalid base64, MalformedRequest, TooLarge, Unavailable if the disk cannot be written, or
    Overloaded.
    """
    stream, start = request.stream(), bytearray()
    async for chunk in stream:
        start += chunk
        if len(start) > SMALL:
            break
    else:
        return bytes(start), {}
    await stack.enter_async_context(uploads.place(declared_length(request) or MAX_JSON_BYTES))
    files: dict[str, IO[bytes]] = {}
    stack.push_async_callback(asyncio.to_thread, _close, files)  # closing a large temporary file takes milliseconds
    try:
        body = await asyncio.to_thread(uploads.open)
        stack.push_async_callback(asyncio.to_thread, body.close)
        await _write(body, start, stream)
        async with uploads.turn():
            rest = await asyncio.get_running_loop().run_in_executor(
                _PARSER, _separate, body, catalog, uploads, files, pictures
            )
    except OSError as error:
        raise DiskUnavailable(f"an image cannot be stored: {error.strerror}") from error
    return rest, files


async def _write(body: IO[bytes], start: bytearray, stream: AsyncGenerator[bytes]) -> None:
    buffer = start
    async for chunk in stream:
        if len(buffer) >= _CHUNK:
            await asyncio.to_thread(body.write, buffer)
            buffer = bytearray()
        buffer += chunk
    await asyncio.to_thread(body.write, buffer)


def _separate(
    body: IO[bytes], catalog: Catalog, uploads: Places, files: dict[str, IO[bytes]], pictures: Collection[str]
) -> bytes:
    """Move the long images of a body to new files in `files`, and return the remainder as JSON."""
    body.seek(0)
    shortened = shorten(json_text(body.read()))
    members = _bounded(shortened.body)
    if isinstance(members, dict):
        for holder, key, name in _places_of_images(members, catalog, pictures):
            if isinstance(holder[key], str) and _is_long_image(holder[key], shortened):
                if len(files) == catalog.max_images:
                    reason = f"more than {catalog.max_images} images"
                    raise InvalidRequest(f"{name}: {reason}", {name: reason})
                files[name] = uploads.open()
                _decode(files[name], name, holder[key], shortened)
                holder[key] = None
    rest = shortened.restored(_JSON.dump_json(members))
    if len(rest) > _MAX_REST:
        raise TooLarge(f"the body without its images must not exceed {_MAX_REST // 1024**2} MB")
    return rest


def _is_long_image(text: str, shortened: Shortened) -> bool:
    """Whether this text, or the one that it stands for, is a long image and no URL."""
    if (taken := shortened.texts.get(text)) is not None:
        return not _is_url(bytes(taken[:8]).decode(errors="replace"))
    return len(text) > LONG and not _is_url(text)


def _decode(file: IO[bytes], name: str, text: str, shortened: Shortened) -> None:
    """Decode an image into a file. The text that a mark stands for is released."""
    taken = shortened.texts.pop(text, None)
    if taken is None:
        decode_into(file, name, text)
    elif not decode_plain(file, taken):
        decode_into(file, name, parse(b'"%b"' % bytes(taken)))


def _places_of_images(
    members: dict[str, Any], catalog: Catalog, pictures: Collection[str]
) -> Iterator[tuple[Any, Any, str]]:
    """Yield each place where an image may be: its object or list, its key or index, and its name."""
    for member in {*catalog.image_members, *pictures}:
        value = members.get(member)
        places: list[tuple[Any, Any, str]] = [(members, member, member)]
        if isinstance(value, list):
            places = [(value, index, f"{member}[{index}]") for index in range(len(value))]
        for holder, key, name in places if value is not None else ():
            item = holder[key]
            if member not in pictures or not isinstance(item, dict):
                yield holder, key, name
            elif _REFERENCE in item:
                yield item, _REFERENCE, name


def parse(text: bytes) -> Any:
    """Parse JSON. Raises MalformedRequest."""
    try:
        return _JSON.validate_json(text)
    except ValueError as error:
        raise MalformedRequest("the body is not valid JSON") from error


def _bounded(text: bytes) -> Any:
    """Parse JSON. Raises MalformedRequest, and TooLarge before the values would take much memory."""
    if sum(1 for _ in islice(_starts_of_values(text), _MAX_VALUES + 1)) > _MAX_VALUES:
        raise TooLarge(f"a JSON body must not have more than {_MAX_VALUES} values")
    return parse(text)


def _starts_of_values(text: bytes) -> Iterator[int]:
    """Yield where a value may start. `find` passes over an image thirty times as fast as `count` does."""
    for sign in (b",", b"[", b"{"):
        at = text.find(sign)
        while at >= 0:
            yield at
            at = text.find(sign, at + 1)


def _is_url(text: str) -> bool:
    return text[:8].lower().startswith(("http://", "https://"))


def _close(files: dict[str, IO[bytes]]) -> None:
    for file in files.values():
        file.close()
