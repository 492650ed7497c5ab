"""Applications under uvicorn on loopback, for what only real sockets show."""

import asyncio
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

from app.db.engine.database import Database
from app.web.protocol import Protocol


def listening(port: int = 0) -> tuple[socket.socket, str]:
    """A socket on this port or on a free one, and the address it will be reached at."""
    bound = socket.create_server(("127.0.0.1", port))
    return bound, f"http://127.0.0.1:{bound.getsockname()[1]}"


@asynccontextmanager
async def serving(app: Any, bound: socket.socket, timeout_graceful_shutdown: int = 2) -> AsyncGenerator[uvicorn.Server]:
    """Serve an ASGI application on this socket; the socket is closed at the end."""
    config = uvicorn.Config(
        app,
        http=Protocol,
        log_config=None,
        lifespan="on",
        timeout_graceful_shutdown=timeout_graceful_shutdown,
    )
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve([bound]))
    try:
        await until(lambda: _started(server, running))
        yield server
    finally:
        server.should_exit = True
        await running
        bound.close()


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 30) -> None:
    """Wait, for a bounded time, until this holds."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - nothing outside of us signals
            await asyncio.sleep(0.01)


async def _started(server: uvicorn.Server, running: asyncio.Task[None]) -> bool:
    return server.started or running.done()


async def signals_to(database: Database) -> list[bool]:
    """One entry for each signal from now on."""
    heard: list[bool] = []
    database.on_signal(lambda: heard.append(True))
    if database.dialect.name == "postgresql":  # whose new connection says that something may have been missed

        async def connected() -> bool:
            return bool(heard)

        await until(connected)
        heard.clear()
    return heard
