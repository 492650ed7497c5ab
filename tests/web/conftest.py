"""The service in a real server, for tests with sockets and browsers."""

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import nullcontext

import pytest
import uvicorn

from app.main import create_app
from app.web.protocol import Protocol
from tests.world import World


@pytest.fixture
async def address(request: pytest.FixtureRequest, world: World) -> AsyncGenerator[str]:
    """The base URL of the service, such as http://127.0.0.1:PORT; the parameter has further options for uvicorn."""
    app = create_app(nullcontext(world.use), with_worker=False)
    options = getattr(request, "param", {})
    server = uvicorn.Server(uvicorn.Config(app, http=Protocol, log_config=None, lifespan="on", **options))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = asyncio.create_task(server.serve([listening]))
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving
