"""Input images: decodes base64, fetches http(s) URLs, and checks the bytes.

A data URL is refused: no source states that the provider accepts one, so Fluxhook must not send it.
"""

import asyncio
import base64
import binascii
import hashlib
from dataclasses import dataclass
from weakref import WeakValueDictionary

import httpx

from app.twin.models import SubmitRequest
from app.twin.pictures import UnreadableError, dimensions
from app.twin.submit_request import Refusal, invalid_field

MAX_BYTES = 20_000_000  # "20 MB or 20 MP" per image, from the Kontext guide
MAX_PIXELS = 20_000_000
FETCH_SECONDS = 10


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Source:
    """One input image, unchanged. Width and height are in pixels, after the EXIF orientation is applied."""

    data: bytes
    sha256: str
    width: int
    height: int


class Sources:
    """Reads inputs. Equal bytes are stored once, because a load test sends one image thousands of times."""

    def __init__(self, send: httpx.AsyncClient) -> None:
        self._send = send
        self._by_digest: WeakValueDictionary[str, Source] = WeakValueDictionary()

    async def read(self, request: SubmitRequest) -> list[Source] | Refusal:
        sources = []
        for name, value in request.input_images().items():
            try:
                sources.append(self._share(await self._bytes(value)))
            except ValueError as problem:
                return invalid_field(name, str(problem))
        return sources

    async def _bytes(self, value: str) -> bytes:
        if value.startswith(("http://", "https://")):
            return await self._fetch(value)
        if value.startswith("data:"):
            raise ValueError("send bare base64, not a data URL")
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError) as problem:
            raise ValueError("neither base64 nor an http(s) URL") from problem

    async def _fetch(self, url: str) -> bytes:
        try:
            async with asyncio.timeout(FETCH_SECONDS), self._send.stream("GET", url) as answer:
                answer.raise_for_status()
                return await _read_at_most(MAX_BYTES, answer)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as problem:
            raise ValueError("the URL could not be fetched") from problem

    def _share(self, data: bytes) -> Source:
        if len(data) > MAX_BYTES:
            raise ValueError("larger than 20 MB")
        digest = hashlib.sha256(data).hexdigest()
        source = self._by_digest.get(digest)
        if source is None:
            source = self._by_digest[digest] = _checked(data, digest)
        return source


async def _read_at_most(limit: int, answer: httpx.Response) -> bytes:
    data = bytearray()
    async for chunk in answer.aiter_bytes():
        data += chunk
        if len(data) > limit:
            break
    return bytes(data)


def _checked(data: bytes, digest: str) -> Source:
    try:
        width, height = dimensions(data)
    except UnreadableError as problem:
        raise ValueError("not a readable image") from problem
    if width * height > MAX_PIXELS:
        raise ValueError("larger than 20 MP")
    return Source(data, digest, width, height)
