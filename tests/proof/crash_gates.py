"""Gates between a service that will be killed and its provider: each holds one exchange until the driver opens it."""

import asyncio
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from app.twin.server import TwinApp


class Gate:
    """`reached` is set when something waits at the gate; `opened` lets it go on."""

    def __init__(self, place: str) -> None:
        self._place = place
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def hold(self, place: str) -> bool:
        """Wait here if this is the gate's place, the first time that somebody comes; True when it was."""
        if place != self._place or self.opened.is_set():
            return False
        self.reached.set()
        await self.opened.wait()
        return True


class GatedProvider:
    """The twin's HTTP face behind a gate, for what the service asks of it."""

    def __init__(self, app: TwinApp, gate: Gate, *, loses: bool) -> None:
        self._app = app
        self._gate = gate
        self._loses = loses  # what was held before the provider is not handed on

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        what = _what(scope)
        if await self._gate.hold(f"{what}: request") and self._loses:
            return

        async def answer(message: Any) -> None:
            if message["type"] == "http.response.start":
                await self._gate.hold(f"{what}: answer")
            elif len(message.get("body", b"")) > 1:
                half = len(message["body"]) // 2
                await send({**message, "body": message["body"][:half], "more_body": True})
                await self._gate.hold(f"{what}: body")
                message["body"] = message["body"][half:]
            await send(message)

        await self._app(scope, receive, answer)


class GatedCalls(httpx.AsyncBaseTransport):
    """The provider's callbacks behind a gate."""

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
    """Hold the database's write lock, so that nothing can be committed meanwhile."""
    connection = sqlite3.connect(database, isolation_level=None, timeout=10)
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")
    finally:
        connection.close()


def _what(scope: Any) -> str:
    if scope["type"] != "http":
        return scope["type"]  # type: ignore[no-any-return]
    if scope["path"].startswith("/delivery/"):
        return "download"
    return "submit" if scope["method"] == "POST" else "status"
