"""Download an input image from an address that an application names, with limits on time, size and redirects.

Each address, that of a redirect too, goes through the SSRF guard. A blocked host gets the same error as one that cannot
be reached; all other errors say what was wrong.
"""

import asyncio
import re
import ssl
import zlib
from collections.abc import Iterator
from http import HTTPStatus
from typing import IO, Protocol

import httpx

from app.errors import InvalidRequest, TooLarge
from app.resources import Resources
from app.security import redirects

_TIMEOUT_S = 60  # for the whole image, so that a slow host cannot keep a request open
_BUFFER = 256 * 1024  # bytes that a thread inflates and writes at once
_WELL_KNOWN_PORTS = range(1024)  # mail, shells and the like; of these, only the two of HTTP are used
_HTTP_PORTS = frozenset({None, 80, 443})
_MEDIA_TYPE = re.compile(r"[a-z]{1,20}/[a-z0-9.+-]{1,60}")
_ENCODING = re.compile(r"[a-z0-9-]{1,20}")
_HEADERS = {"accept": "image/jpeg, image/png, image/webp, */*;q=0.1", "accept-encoding": "identity"}
_UNREACHABLE = "its URL cannot be reached"


async def fetch(use: Resources, field: str, address: str, file: IO[bytes], max_bytes: int) -> str:
    """Download into `file`; return the media type that the host states, or "".

    Raises InvalidRequest or TooLarge, which name the field, and OSError if the file cannot be written.
    """
    try:
        return await _fetch(use, address, file, max_bytes)
    except _TooMuch as error:
        raise too_large(field, max_bytes) from error
    except _Refused as error:
        reason = str(error)
    except (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.ConnectTimeout, UnicodeError):
        reason = _UNREACHABLE
    except httpx.ConnectError as error:
        is_untrusted = any(isinstance(cause, ssl.SSLError) for cause in _causes(error))
        reason = "its host has no valid certificate" if is_untrusted else _UNREACHABLE
    except (TimeoutError, httpx.TimeoutException):
        reason = "its URL did not deliver the image in time"
    except httpx.HTTPError:
        reason = "its host closed the connection before the image was complete"
    raise InvalidRequest(f"{field}: {reason}", {field: reason})


def too_large(field: str, max_bytes: int) -> TooLarge:
    """Return the error for an image of more than `max_bytes` bytes."""
    limit = max_bytes // 1024**2
    return TooLarge(f"{field}: an image may have at most {limit} MB", {field: f"more than {limit} MB"})


class _Refused(Exception):
    """The address or the answer is not usable; the message says why."""


class _TooMuch(Exception):
    """More bytes arrived than an image may have."""


async def _fetch(use: Resources, address: str, file: IO[bytes], max_bytes: int) -> str:
    headers = {**_HEADERS, "user-agent": use.user_agent}
    requested: list[httpx.URL] = []

    def check(url: httpx.URL) -> None:
        if requested and url.scheme not in {"http", "https"}:
            raise _Refused("its URL redirects to something that is not an http(s) address")
        _check(url)
        requested.append(url)

    try:
        async with asyncio.timeout(_TIMEOUT_S), redirects.get(use.web, address, check, headers) as response:
            await _receive(response, file, max_bytes)
            return _media_type(response)
    except httpx.TooManyRedirects as error:
        raise _Refused(f"its URL redirects more than {redirects.MAX_REDIRECTS} times") from error


def _check(url: httpx.URL) -> None:
    """Raise _Refused for a URL whose text shows that it cannot be used. The host is not looked up."""
    if url.userinfo:
        raise _Refused("its URL must not contain a user name or a password")
    if url.port in _WELL_KNOWN_PORTS and url.port not in _HTTP_PORTS:
        raise _Refused("the port of its URL must be 80, 443 or above 1023")


async def _receive(response: httpx.Response, file: IO[bytes], max_bytes: int) -> None:
    if response.status_code != HTTPStatus.OK:
        raise _Refused(f"its URL answered with HTTP {response.status_code}")
    writer, buffer = _Writer(file, _inflater(response), max_bytes), bytearray()
    async for chunk in response.aiter_raw():
        buffer += chunk
        if len(buffer) >= _BUFFER:
            await asyncio.to_thread(writer.write, bytes(buffer))
            buffer.clear()
    await asyncio.to_thread(writer.write, bytes(buffer))
    writer.end()


class _Inflater(Protocol):
    """A decompressor of zlib."""

    @property
    def unconsumed_tail(self) -> bytes: ...

    @property
    def eof(self) -> bool: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def _inflater(response: httpx.Response) -> _Inflater | None:
    """Return what decodes the body: some hosts compress although they are asked not to."""
    encoding = response.headers.get("content-encoding", "").strip().lower()
    if encoding in {"", "identity"}:
        return None
    if encoding in {"gzip", "x-gzip", "deflate"}:
        return zlib.decompressobj(zlib.MAX_WBITS | 32)  # 32: the header says whether it is gzip or zlib
    name = encoding if _ENCODING.fullmatch(encoding) else "an unknown way"
    raise _Refused(f"its URL answered with a body compressed with {name}, which was not asked for")


class _Writer:
    """Writes a body into a file: inflated piece by piece, and at most `max_bytes` bytes of it."""

    def __init__(self, file: IO[bytes], inflater: _Inflater | None, max_bytes: int) -> None:
        self._file = file
        self._inflater = inflater
        self._left = max_bytes

    def write(self, data: bytes) -> None:
        for piece in self._inflated(data):
            self._left -= len(piece)
            if self._left < 0:
                raise _TooMuch
            self._file.write(piece)

    def end(self) -> None:
        if self._inflater is not None and not self._inflater.eof:
            raise _Refused("its compressed body is cut off")

    def _inflated(self, data: bytes) -> Iterator[bytes]:
        if self._inflater is None:
            yield data
            return
        try:
            while not self._inflater.eof:
                piece = self._inflater.decompress(data, _BUFFER)
                data = self._inflater.unconsumed_tail
                if not piece and not data:
                    return
                yield piece
        except zlib.error as error:
            raise _Refused("its compressed body is damaged") from error


def _media_type(response: httpx.Response) -> str:
    declared = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    return declared if _MEDIA_TYPE.fullmatch(declared) else ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
