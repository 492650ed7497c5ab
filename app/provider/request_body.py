"""An order as the JSON of a request, made while it is sent: four images of 20 MB are 107 MB of base64."""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator
from typing import IO

from app.provider.contract import ProviderResponse, SubmitRequest
from app.rules.task import Report, Said

_PIECE = 96 * 1024  # bytes of an image at a time; a multiple of three, so that their base64 can be joined


class RequestBody:
    """What is sent: every field, also those at their default, because the documents disagree about the defaults.

    It can be sent once. Its length is known before, for providers that take no chunked request.
    """

    def __init__(self, order: SubmitRequest) -> None:
        after = {"webhook_url": order.webhook_url, "webhook_secret": order.webhook_secret}
        self._start = json.dumps(dict(order.params)).encode()[:-1]
        self._end = b", " + json.dumps(after).encode()[1:] if order.webhook_url is not None else b"}"
        self._images = [(f', {json.dumps(name)}: "'.encode(), file) for name, file in order.images.items()]
        images = sum(len(before) + _length(file) + len(b'"') for before, file in self._images)
        self._length = len(self._start) + images + len(self._end)
        self._ended = False  # whether its last bytes were handed over

    @property
    def headers(self) -> dict[str, str]:
        return {"content-type": "application/json", "content-length": str(self._length)}

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        """Pieces of 128 KB at most beside the other fields. Raises OSError when an image cannot be read."""
        if not self._images:
            self._ended = True
            yield self._start + self._end
            return
        yield self._start
        for before, file in self._images:
            yield before
            file.seek(0)
            while piece := await asyncio.to_thread(_next_piece, file):
                yield piece
            yield b'"'
        self._ended = True
        yield self._end

    def unless_cut(self, answer: ProviderResponse) -> ProviderResponse:
        """The answer to it; where none came to a part of it, that is no order, and nobody can have taken it."""
        if self._ended or answer.http_status is not None or answer.report.said is not Said.LOST:
            return answer
        return ProviderResponse(Report(Said.DOWN, detail=f"{answer.report.detail}, before all was sent"))


def _next_piece(file: IO[bytes]) -> bytes:
    return base64.b64encode(file.read(_PIECE))


def _length(file: IO[bytes]) -> int:
    """Of its base64: four characters for each three bytes that were begun."""
    return (file.seek(0, 2) + 2) // 3 * 4
