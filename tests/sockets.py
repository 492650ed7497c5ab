"""Applications under uvicorn on loopback, for tests that need real sockets."""

import asyncio
import random  # noqa: TID251 - chooses free ports
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import uvicorn

from app.db.engine.database import Database
from app.web.limits import DEFAULT_LIMITS, Limits
from app.web.protocol import Protocol


def listening(port: int = 0) -> tuple[socket.socket, str]:
    """Listen on this port, or on a free one; return the socket and its address."""
    bound = socket.create_server(("127.0.0.1", port))
    return bound, f"http://127.0.0.1:{bound.getsockname()[1]}"


def free_address() -> str:
    """Return an address for a child process.

    Its port is below those that the system gives to sockets, so no test that runs beside this one gets it meanwhile.
    """
    while True:
        port = random.randrange(10_000, 32_000)  # noqa: S311 - only to avoid others
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return f"http://127.0.0.1:{port}"


@asynccontextmanager
async def serving(
    app: Any, bound: socket.socket, timeout_graceful_shutdown: int = 2, limits: Limits = DEFAULT_LIMITS
) -> AsyncGenerator[uvicorn.Server]:
    """Serve an ASGI application on this socket; close the socket after the block."""
    config = uvicorn.Config(
        app,
        http=partial(Protocol, limits=limits),  # type: ignore[arg-type] # it is called like a class
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


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 120) -> None:
    """Wait until the condition holds; the time limit only guards against hanging. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.01)


async def _started(server: uvicorn.Server, running: asyncio.Task[None]) -> bool:
    return server.started or running.done()


async def signals_to(database: Database) -> list[bool]:
    """Return a list that gets an entry for each signal from now on."""
    signals: list[bool] = []
    database.on_jobs(lambda: signals.append(True))
    if database.dialect.name == "postgresql":  # its new connection signals once, because it may have missed some

        async def connected() -> bool:
            return bool(signals)

        await until(connected)
        signals.clear()
    return signals
