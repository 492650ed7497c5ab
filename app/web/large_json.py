"""A large JSON body, taken apart as it comes: its images go to files, and only the rest is held in memory.

The rest is JSON again, with null where an image stood, for whoever knows what may be asked.
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

SMALL = 64 * 1024  # bytes of a body that is read whole: it is parsed sooner than a thread is asked
_AT_ONCE = 128 * 1024  # bytes for one errand of a thread
_PIECE = 32 * 1024  # bytes for one call: while it lasts no other thread runs
_LONG = 16 * 1024  # bytes of a text that goes to a file
_MAX_REST = 1024 * 1024  # bytes, as of a field in a form
_MARKS = re.compile(rb'["{}\[\]:]')
_TEXT = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_BLANK = b" \t\r\n"
# One for all: decoding holds the interpreter, so a second thread would only take turns with it and the event loop.
_DECODER = ThreadPoolExecutor(1, thread_name_prefix="large-json")


async def read_json(request: Request, scratch: Path, stack: AsyncExitStack) -> tuple[bytes, dict[str, IO[bytes]]]:
    """The body without its long images, and these by field, in files that `stack` closes.

    Raises InvalidRequest for what is no base64, MalformedRequest, TooLarge, or Unavailable on a full disk.
    """
    stream, held = request.stream(), bytearray()
    async for chunk in stream:
        held += chunk
        if len(held) > SMALL:
            break
    else:
        return bytes(held), {}
    loop, sieve = asyncio.get_running_loop(), Sieve(scratch)
    stack.push_async_callback(asyncio.to_thread, sieve.close)  # to give up a large file takes the system milliseconds
    async for chunk in stream:
        if len(held) >= _AT_ONCE:
            await loop.run_in_executor(_DECODER, sieve.feed, bytes(held))
            held.clear()
        held += chunk
    await loop.run_in_executor(_DECODER, sieve.feed, bytes(held))
    return sieve.rest(), sieve.files


def require_once(params: TaskParams, files: dict[str, IO[bytes]]) -> None:
    """Refuse an image field that was given both ways: which one was meant?"""
    for field in params.images():
        if field in files:
            raise _given_twice(field)


class Sieve:
    """Separates the long images of a JSON object from the rest of it; `feed` it the bytes in pieces of any length."""

    def __init__(self, scratch: Path) -> None:
        self.files: dict[str, IO[bytes]] = {}
        self._scratch = scratch
        self._rest = bytearray()
        self._depth = 0
        self._last = b""  # the text that ended last
        self._named: str | None = None  # the member whose value comes next
        self._text: bytearray | None = None  # of the text that is not yet ended
        self._half = b""  # a backslash whose other half has not come
        self._field = ""  # the image whose text this is
        self._image: Inline | None = None  # once it is long

    def feed(self, data: bytes) -> None:
        for start in range(0, len(data), _PIECE):
            self._feed(self._half + data[start : start + _PIECE])

    def rest(self) -> bytes:
        """What is left when all has come; a text without an end is left as such."""
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
            raise TooLarge(f"beside its images the body may have {_MAX_REST // 1024**2} MB")

    def _outside(self, data: bytes, at: int) -> int:
        """Up to the next mark that says where we are."""
        found = _MARKS.search(data, at)
        start = found.start() if found else len(data)
        if data[at:start].strip(_BLANK):
            self._named = None
        self._rest += data[at:start]
        if found:
            self._turn(found[0])
        return start + 1

    def _turn(self, mark: bytes) -> None:
        if mark == b'"':
            self._text = bytearray()
            self._field = self._named if self._named in IMAGE_FIELDS else ""
            self._named = None
            return
        self._rest += mark
        self._depth += (mark in b"{[") - (mark in b"}]")
        self._named = _name(self._last) if mark == b":" and self._depth == 1 else None

    def _inside(self, data: bytes, at: int, text: bytearray) -> int:
        """Up to the end of the text, or of what has come of it."""
        end = data.find(b'"', at)
        end = len(data) if end < 0 else end
        if data.find(b"\\", at, end) >= 0:
            found = _TEXT.match(data, at)
            end = found.end() if found else at
        text += data[at:end]
        if self._field and self._image is None and len(text) > _LONG and not _is_address(text):
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
            raise _unkept(error) from error
        return Inline(self._field, file)

    def _end(self, text: bytes) -> None:
        if self._image is None:
            self._rest += b'"' + text + b'"'
            self._last = text
        else:
            self._rest += b"null"
        self._text, self._image = None, None


def _pass_on(image: Inline, text: bytearray, *, whole: bool) -> None:
    """Give an image what has come of its text, but no half of an escape of six characters; keep that."""
    half = -1 if whole else text.rfind(b"\\", -5)
    end = len(text) if half < 0 else half
    try:
        image.feed(_spoken(bytes(text[:end])))
        if whole:
            image.end()
    except OSError as error:
        raise _unkept(error) from error
    del text[:end]


def _is_address(text: bytearray) -> bool:
    return text[:8].lower().startswith((b"http://", b"https://"))


def _name(text: bytes) -> str | None:
    return _spoken(text) if len(text) <= SMALL else None


def _spoken(text: bytes) -> str:
    """What stands between two quotes in JSON. Letters beyond ASCII are in no image and in no name that we know."""
    try:
        spoken: str = json.loads('"' + text.decode("ascii", "replace") + '"')
    except ValueError as error:
        raise MalformedRequest("the body is not valid JSON") from error
    return spoken


def _given_twice(field: str) -> InvalidRequest:
    return InvalidRequest(f"{field}: given more than once", {field: "given more than once"})


def _unkept(error: OSError) -> Unavailable:
    return Unavailable(f"an image cannot be kept: {error.strerror}")
