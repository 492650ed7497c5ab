"""Gates between the provider and a service that will be killed: each blocks one exchange until the driver opens it."""

import asyncio
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from app.twin.server import TwinApp


class Gate:
    """`reached` is set when an exchange waits at the gate; `opened` releases it."""

    def __init__(self, place: str) -> None:
        self._place = place
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def hold(self, place: str) -> bool:
        """Wait until the gate opens, if this is its place and it is still closed; return whether it waited."""
        if place != self._place or self.opened.is_set():
            return False
        self.reached.set()
        await self.opened.wait()
        return True


class GatedProvider:
    """The twin's HTTP API behind a gate, for requests of the service."""

    def __init__(self, app: TwinApp, gate: Gate, *, loses: bool) -> None:
        self._app = app
        self._gate = gate
        self._loses = loses  # a request that waited at the gate never reaches the provider

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        exchange = _exchange(scope)
        if await self._gate.hold(f"{exchange}: request") and self._loses:
            return

        async def answer(message: Any) -> None:
            if message["type"] == "http.response.start":
                await self._gate.hold(f"{exchange}: answer")
            elif len(message.get("body", b"")) > 1:
                half = len(message["body"]) // 2
                await send({**message, "body": message["body"][:half], "more_body": True})
                await self._gate.hold(f"{exchange}: body")
                message["body"] = message["body"][half:]
            await send(message)

        await self._app(scope, receive, answer)


class GatedCalls(httpx.AsyncBaseTransport):
    """A transport for the provider's callbacks, with a gate."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._wire = httpx.AsyncHTTPTransport(trust_env=False)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await self._gate.hold("callback: request")
        body = await request.aread()

        async def in_halves() -> Any:
            yield body[: len(body) // 2]
            await self._gate.hold("callback: body")
            yield body[len(body) // 2 :]

        sent = httpx.Request(request.method, request.url, headers=request.headers, content=in_halves())
        response = await self._wire.handle_async_request(sent)
        await response.aread()
        if await self._gate.hold("callback: answer"):
            raise httpx.ReadError("the connection was lost", request=request)
        return response

    async def aclose(self) -> None:
        await self._wire.aclose()


@contextmanager
def locked(database: Path) -> Generator[None]:
    """Hold the database's write lock for the block, so that nothing can be committed."""
    connection = sqlite3.connect(database, isolation_level=None, timeout=120)
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")
    finally:
        connection.close()


def _exchange(scope: Any) -> str:
    if scope["type"] != "http":
        return scope["type"]  # type: ignore[no-any-return]
    if scope["path"].startswith("/delivery/"):
        return "download"
    return "submit" if scope["method"] == "POST" else "status"
