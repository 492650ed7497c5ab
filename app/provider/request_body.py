"""The JSON body of a submission, encoded while it is sent: four images of 20 MB are 107 MB of base64."""

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import replace
from typing import IO

from pybase64 import b64encode

from app.provider.contract import ProviderResponse, SubmitRequest
from app.rules.task import Report, Said

_CHUNK = 96 * 1024  # bytes of an image; a multiple of three, so that the base64 of the chunks can be concatenated


class RequestBody:
    """The body of one submission. It holds every field, even at its default, because the documents disagree about the
    defaults.

    It can be sent once. Its length is known in advance, for providers that reject chunked requests.
    """

    def __init__(self, submit_request: SubmitRequest) -> None:
        webhook = {"webhook_url": submit_request.webhook_url, "webhook_secret": submit_request.webhook_secret}
        self._start = json.dumps(dict(submit_request.params)).encode()[:-1]
        self._end = b", " + json.dumps(webhook).encode()[1:] if submit_request.webhook_url is not None else b"}"
        self._images = list(_between_texts(submit_request.images))
        images = sum(len(before) + _length(file) + len(after) for before, file, after in self._images)
        self._length = len(self._start) + images + len(self._end)
        self._ended = False  # whether the last bytes were handed to the client

    @property
    def headers(self) -> dict[str, str]:
        return {"content-type": "application/json", "content-length": str(self._length)}

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        """Yield the body; images in chunks of at most 128 KB. Raises OSError if an image cannot be read."""
        if not self._images:
            self._ended = True
            yield self._start + self._end
            return
        yield self._start
        for before, file, after in self._images:
            yield before
            file.seek(0)
            while chunk := await asyncio.to_thread(_next_chunk, file):
                yield chunk
            yield after
        self._ended = True
        yield self._end

    def unless_cut(self, response: ProviderResponse) -> ProviderResponse:
        """Return `response`, but DOWN instead of LOST if the body was not sent in full: no provider can have accepted
        an incomplete request, whatever a gateway answers.
        """
        if self._ended or response.report.said is not Said.LOST:
            return response
        detail = f"{response.report.detail}, before the request was complete"
        return replace(response, report=Report(Said.DOWN, detail=detail))


def _between_texts(images: Mapping[str, IO[bytes]]) -> Iterator[tuple[bytes, IO[bytes], bytes]]:
    """Yield each image with the JSON before and after it. Images named `member[0]`, `member[1]` become one list."""
    names = [name.partition("[") for name in images]
    for at, ((member, is_list, _), file) in enumerate(zip(names, images.values(), strict=True)):
        is_first = at == 0 or names[at - 1][0] != member
        is_last = at + 1 == len(names) or names[at + 1][0] != member
        before = f', {json.dumps(member)}: {is_list}"' if is_first else ', "'
        yield before.encode(), file, b'"]' if is_list and is_last else b'"'


def _next_chunk(file: IO[bytes]) -> bytes:
    return b64encode(file.read(_CHUNK))


def _length(file: IO[bytes]) -> int:
    """Return the length of the file in base64: four characters for every three bytes, rounded up."""
    return (file.seek(0, 2) + 2) // 3 * 4
