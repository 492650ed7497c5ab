"""Reads a large JSON body as it arrives: its images go to files, and only the remainder is held in memory.

The remainder is JSON with null in place of each image. It is validated by the reader of the route.
"""

import asyncio
import json
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from fastapi import Request

from app.errors import InvalidRequest, MalformedRequest, TooLarge, Unavailable
from app.images.base64 import Inline
from app.params import IMAGE_FIELDS, TaskParams

SMALL = 64 * 1024  # bytes; a smaller body is parsed at once, which is faster than handing it to a thread
_CHUNK = 128 * 1024  # bytes handed to the thread at once
_PIECE = 32 * 1024  # bytes decoded in one call, during which no other thread runs
_LONG = 16 * 1024  # bytes; a longer image goes to a file
_MAX_REST = 1024 * 1024  # bytes, the limit of a form field too
_MARKS = re.compile(rb'["{}\[\]:]')
_TEXT = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_BLANK = b" \t\r\n"
# One thread: decoding holds the GIL, so a second thread would only compete with it and the event loop.
_DECODER = ThreadPoolExecutor(1, thread_name_prefix="large-json")


async def read_json(request: Request, scratch: Path, stack: AsyncExitStack) -> tuple[bytes, dict[str, IO[bytes]]]:
    """Return the body without its long images, and these images by field, in files that `stack` closes.

    Raises InvalidRequest for invalid base64, MalformedRequest, TooLarge, or Unavailable if the disk cannot be written.
    """
    stream, buffer = request.stream(), bytearray()
    async for chunk in stream:
        buffer += chunk
        if len(buffer) > SMALL:
            break
    else:
        return bytes(buffer), {}
    loop, sieve = asyncio.get_running_loop(), Sieve(scratch)
    stack.push_async_callback(asyncio.to_thread, sieve.close)  # closing a large temporary file takes milliseconds
    async for chunk in stream:
        if len(buffer) >= _CHUNK:
            await loop.run_in_executor(_DECODER, sieve.feed, bytes(buffer))
            buffer.clear()
        buffer += chunk
    await loop.run_in_executor(_DECODER, sieve.feed, bytes(buffer))
    return sieve.rest(), sieve.files


def require_once(params: TaskParams, files: dict[str, IO[bytes]]) -> None:
    """Raise InvalidRequest for an image field that is given twice, as a file and in the parameters."""
    for field in params.images():
        if field in files:
            raise _given_twice(field)


class Sieve:
    """Separates the long images of a JSON object from its remainder. `feed` takes the bytes in pieces of any length."""

    def __init__(self, scratch: Path) -> None:
        self.files: dict[str, IO[bytes]] = {}
        self._scratch = scratch
        self._rest = bytearray()
        self._depth = 0
        self._last = b""  # the last complete string
        self._member: str | None = None  # the top-level member whose value comes next
        self._text: bytearray | None = None  # the current string; None outside of strings
        self._half = b""  # a backslash whose next byte has not arrived
        self._field = ""  # the image field that the current string belongs to
        self._image: Inline | None = None  # set once the string is long

    def feed(self, data: bytes) -> None:
        for start in range(0, len(data), _PIECE):
            self._feed(self._half + data[start : start + _PIECE])

    def rest(self) -> bytes:
        """Return the remainder after the last piece; a string without an end is left without one."""
        unended = b"" if self._text is None else b'"' + self._text
        return bytes(self._rest + unended)

    def close(self) -> None:
        for file in self.files.values():
            file.close()

    def _feed(self, data: bytes) -> None:
        self._half = b""
        at = 0
        while at < len(data):
            at = self._outside(data, at) if self._text is None else self._inside(data, at, self._text)
        if len(self._rest) + len(self._text or b"") > _MAX_REST:
            raise TooLarge(f"the body without its images must not exceed {_MAX_REST // 1024**2} MB")

    def _outside(self, data: bytes, at: int) -> int:
        """Read up to the next structural character; return the position after it."""
        found = _MARKS.search(data, at)
        start = found.start() if found else len(data)
        if data[at:start].strip(_BLANK):
            self._member = None
        self._rest += data[at:start]
        if found:
            self._enter(found[0])
        return start + 1

    def _enter(self, mark: bytes) -> None:
        if mark == b'"':
            self._text = bytearray()
            self._field = self._member if self._member in IMAGE_FIELDS else ""
            self._member = None
            return
        self._rest += mark
        self._depth += (mark in b"{[") - (mark in b"}]")
        self._member = _name(self._last) if mark == b":" and self._depth == 1 else None

    def _inside(self, data: bytes, at: int, text: bytearray) -> int:
        """Read up to the end of the string, or of the data; return the position after it."""
        end = data.find(b'"', at)
        end = len(data) if end < 0 else end
        if data.find(b"\\", at, end) >= 0:
            found = _TEXT.match(data, at)
            end = found.end() if found else at
        text += data[at:end]
        if self._field and self._image is None and len(text) > _LONG and not _is_url(text):
            self._image = self._begin()
        if self._image is not None:
            _pass_on(self._image, text, whole=data[end : end + 1] == b'"')
        if data[end : end + 1] == b'"':
            self._end(bytes(text))
        else:
            self._half = data[end:]
        return end + 1

    def _begin(self) -> Inline:
        if self._field in self.files:
            raise _given_twice(self._field)
        try:
            self.files[self._field] = file = TemporaryFile(dir=self._scratch)  # noqa: SIM115 - `close` closes it
        except OSError as error:
            raise _unwritable(error) from error
        return Inline(self._field, file)

    def _end(self, text: bytes) -> None:
        if self._image is None:
            self._rest += b'"' + text + b'"'
            self._last = text
        else:
            self._rest += b"null"
        self._text, self._image = None, None


def _pass_on(image: Inline, text: bytearray, *, whole: bool) -> None:
    """Feed an image with the text that has arrived, except for an incomplete escape, which stays in `text`."""
    half = -1 if whole else text.rfind(b"\\", -5)
    end = len(text) if half < 0 else half
    try:
        image.feed(_unescaped(bytes(text[:end])))
        if whole:
            image.end()
    except OSError as error:
        raise _unwritable(error) from error
    del text[:end]


def _is_url(text: bytearray) -> bool:
    return text[:8].lower().startswith((b"http://", b"https://"))


def _name(text: bytes) -> str | None:
    return _unescaped(text) if len(text) <= SMALL else None


def _unescaped(text: bytes) -> str:
    """Decode the content of a JSON string. No image and no known field name contains non-ASCII characters."""
    try:
        unescaped: str = json.loads('"' + text.decode("ascii", "replace") + '"')
    except ValueError as error:
        raise MalformedRequest("the body is not valid JSON") from error
    return unescaped


def _given_twice(field: str) -> InvalidRequest:
    return InvalidRequest(f"{field}: given more than once", {field: "given more than once"})


def _unwritable(error: OSError) -> Unavailable:
    return Unavailable(f"an image cannot be stored: {error.strerror}")
