"""Unusual HTTP responses: redirected, truncated, missing, slow, or from a gateway."""

import asyncio
from collections.abc import AsyncGenerator

import httpx
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

# The scope key of the server's own `send`, which TwinApp stores before middleware wraps it.
SERVER_SEND = "twin.server_send"
CHUNKS = 10


def redirect(request: Request, count: int, origin: str | None) -> Response | None:
    """Return the next of `count` redirects to the same path, or None once they are used up; `hop` counts them."""
    hop = int(request.query_params.get("hop", "0")) + 1
    if hop > count:
        return None
    url = request.url.include_query_params(hop=hop)
    return RedirectResponse(f"{origin or f'{url.scheme}://{url.netloc}'}{url.path}?{url.query}")


class TruncatedResponse(Response):
    """A response that ends after `sent`, before its Content-Length; without `sent`, no response at all."""

    def __init__(self, sent: bytes = b"", content_length: int = 1, media_type: str | None = None) -> None:
        super().__init__(media_type=media_type)
        self._sent = sent
        self.headers["content-length"] = str(content_length)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # ASGI has no message that closes a connection. Uvicorn's `send` is a method of an object with the socket.
        # Without a socket, as in httpx.ASGITransport, raise the error that a client would get.
        cycle = getattr(scope.get(SERVER_SEND), "__self__", None)
        transport = getattr(cycle, "transport", None)
        if self._sent or transport is None:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": self._sent, "more_body": True})
        if transport is None:
            raise httpx.RemoteProtocolError("the twin closed the connection")
        transport.close()
        while (await receive())["type"] != "http.disconnect":
            pass


def gateway_page(status: int) -> Response:
    """Return a page of a gateway in front of the provider: HTML, without a word of the API."""
    headers = {"location": "/moved"} if status in range(300, 400) else None
    page = f"<!DOCTYPE html><html><head><title>{status}</title></head><body>cloudflare</body></html>"
    return HTMLResponse(page, status, headers)


def slow_response(data: bytes, seconds: float, media_type: str) -> StreamingResponse:
    """Return a response that sends the whole body in equal chunks over `seconds`."""
    return StreamingResponse(_chunks(data, seconds), media_type=media_type, headers={"content-length": str(len(data))})


async def _chunks(data: bytes, seconds: float) -> AsyncGenerator[bytes, None]:
    step = -(-len(data) // CHUNKS)
    for start in range(0, len(data), step):
        await asyncio.sleep(seconds / CHUNKS)
        yield data[start : start + step]
