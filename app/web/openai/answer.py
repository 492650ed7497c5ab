"""Answers in OpenAI's form, sent in pieces: an image in base64 takes as little memory as any of its pieces."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from http import HTTPStatus
from typing import Any

from pybase64 import b64encode

from app.errors import FluxhookError
from app.resources import Connections
from app.web.openai import errors
from app.web.openai.outcome import Made
from app.web.streaming import ClosingResponse, EventStream

NO_STORE = {"cache-control": "no-store"}
_FORMATS = {"image/png": "png", "image/jpeg": "jpeg", "image/webp": "webp"}
_EVENT_EVERY_S = 15.0  # the longest time without a byte in a stream of events
_BASE64_GROUP = 3  # bytes that become four characters
_MEDIA_TYPE = "application/json"

Link = Callable[[Made], str]  # returns the address of an image
Outcome = Callable[[], Awaitable[Sequence[Made]]]  # waits for the images; raises FluxhookError


def whole(use: Connections, made: Sequence[Made], link: Link | None) -> ClosingResponse:
    """Return the response with these images: as links or, without `link`, as base64."""
    parts = list(_parts(made, link))
    length = sum(len(part) if isinstance(part, bytes) else _base64_length(part.result.bytes) for part in parts)
    headers = {**NO_STORE, "content-length": str(length)}
    return ClosingResponse(_bytes(use, parts), HTTPStatus.OK, headers, _MEDIA_TYPE)


def kept_alive(use: Connections, outcome: Outcome, link: Link | None, every_s: float) -> ClosingResponse:
    """Return a response that sends a space every `every_s` seconds until the images are there. Its status is 200."""
    return ClosingResponse(_kept_alive(use, outcome, link, every_s), HTTPStatus.OK, NO_STORE, _MEDIA_TYPE)


def events(use: Connections, outcomes: Sequence[Outcome], kind: str) -> EventStream:
    """Return a stream with one event `kind` for each image, or with the event `error`."""
    return EventStream(_events(use, outcomes, kind))


async def _kept_alive(use: Connections, outcome: Outcome, link: Link | None, every_s: float) -> AsyncGenerator[bytes]:
    waiting = asyncio.ensure_future(outcome())
    try:
        while not (await asyncio.wait([waiting], timeout=every_s))[0]:
            yield b" "
        try:
            made = await waiting
        except FluxhookError as error:
            yield json.dumps(errors.document(error, errors.status_of(error))).encode()
            return
        async with aclosing(_bytes(use, list(_parts(made, link)))) as pieces:
            async for piece in pieces:
                yield piece
    finally:
        waiting.cancel()


async def _events(use: Connections, outcomes: Sequence[Outcome], kind: str) -> AsyncGenerator[bytes]:
    yield b": the images follow\n\n"
    for outcome in outcomes:
        waiting = asyncio.ensure_future(outcome())
        try:
            while not (await asyncio.wait([waiting], timeout=_EVENT_EVERY_S))[0]:
                yield b": not yet\n\n"
            try:
                made = await waiting
            except FluxhookError as error:
                data = {"type": "error", **errors.document(error, errors.status_of(error))}
                yield f"event: error\ndata: {json.dumps(data)}\n\n".encode()
                return
        finally:
            waiting.cancel()
        for image in made:
            yield f"event: {kind}\ndata: ".encode()
            async with aclosing(_bytes(use, list(_event(image, kind)))) as pieces:
                async for piece in pieces:
                    yield piece
            yield b"\n\n"


def _parts(made: Sequence[Made], link: Link | None) -> Iterable[bytes | Made]:
    """Yield the body: bytes, and an image where its base64 belongs."""
    created = max(int(image.result.stored_at.timestamp()) for image in made)
    first, members = made[0], {"created": created}
    described = json.dumps({**members, **_described(first)})
    yield described[:-1].encode() + b', "data": ['
    for number, image in enumerate(made):
        comma = b", " if number else b""
        if link is not None:
            yield comma + json.dumps({"url": link(image)}).encode()
        else:
            yield comma + b'{"b64_json": "'
            yield image
            yield b'"}'
    yield b"]}"


def _event(image: Made, kind: str) -> Iterable[bytes | Made]:
    """Yield the data of an event as `_parts` does. OpenAI's clients expect all of these members."""
    zero = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
    usage = {**zero, "input_tokens_details": {"image_tokens": 0, "text_tokens": 0}}
    members: dict[str, Any] = {
        "type": kind,
        "created_at": int(image.result.stored_at.timestamp()),
        "background": "auto",
        "quality": "auto",
        "size": "auto",
        "usage": usage,
        **_described(image),
    }
    yield json.dumps(members)[:-1].encode() + b', "b64_json": "'
    yield image
    yield b'"}'


def _described(image: Made) -> dict[str, str]:
    """Return the format and the actual size of an image, as far as they are known."""
    result = image.result
    described = {}
    if result.media_type in _FORMATS:
        described["output_format"] = _FORMATS[result.media_type]
    if result.width and result.height:
        described["size"] = f"{result.width}x{result.height}"
    return described


async def _bytes(use: Connections, parts: Sequence[bytes | Made]) -> AsyncGenerator[bytes]:
    for part in parts:
        if isinstance(part, bytes):
            yield part
            continue
        rest = b""
        async with aclosing(use.store.read(part.result.store_key, 0, part.result.bytes)) as chunks:
            async for chunk in chunks:
                data = rest + chunk
                whole_groups = len(data) - len(data) % _BASE64_GROUP
                rest = data[whole_groups:]
                yield b64encode(data[:whole_groups])
        yield b64encode(rest)


def _base64_length(size: int) -> int:
    return -(-size // _BASE64_GROUP) * 4
