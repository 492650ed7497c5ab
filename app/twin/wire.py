"""Answers that go wrong on the wire: torn off, never given, or dripping."""

import asyncio
from collections.abc import AsyncGenerator

import httpx
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

# The server's own `send`, as it was before any middleware wrapped it; the app puts it there.
SERVER_SEND = "twin.server_send"
DRIPS = 10


class Torn(Response):
    """An answer that breaks off after `sent` although its header promises more; without `sent`, no answer."""

    def __init__(self, sent: bytes = b"", promised: int = 1, media_type: str | None = None) -> None:
        super().__init__(media_type=media_type)
        self._sent = sent
        self.headers["content-length"] = str(promised)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # ASGI has no message for hanging up. Uvicorn's `send` belongs to an object that holds the socket;
        # where there is none, as in httpx.ASGITransport, the error that the client would see is raised.
        cycle = getattr(scope.get(SERVER_SEND), "__self__", None)
        transport = getattr(cycle, "transport", None)
        if self._sent or transport is None:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": self._sent, "more_body": True})
        if transport is None:
            raise httpx.RemoteProtocolError("the twin hung up")
        transport.close()
        while (await receive())["type"] != "http.disconnect":
            pass


def dripping(data: bytes, seconds: float, media_type: str) -> StreamingResponse:
    """The whole body, spread evenly over this time."""
    return StreamingResponse(_drips(data, seconds), media_type=media_type, headers={"content-length": str(len(data))})


async def _drips(data: bytes, seconds: float) -> AsyncGenerator[bytes, None]:
    step = -(-len(data) // DRIPS)
    for start in range(0, len(data), step):
        await asyncio.sleep(seconds / DRIPS)
        yield data[start : start + step]
