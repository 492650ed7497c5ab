"""The ASGI application of the twin: both providers, the delivery host and the controls."""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from app.clock import utc_now
from app.twin.api import Api
from app.twin.controls import Controls
from app.twin.delivery import Delivery
from app.twin.engine import Twin
from app.twin.rules import Profile, preset
from app.twin.wire import SERVER_SEND


class TwinApp(Starlette):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Saved before middleware wraps it: TruncatedResponse needs the server's own `send`.
        scope[SERVER_SEND] = send
        await super().__call__(scope, receive, send)


def create_twin_app(twin: Twin, *, running: bool = True, owned: httpx.AsyncClient | None = None) -> TwinApp:
    """Return the twin as an ASGI app.

    `running` sends due callbacks while the app runs; without it, a test calls `tick`. `owned` is an HTTP client that is
    closed with the app.
    """

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None, None]:
        async with AsyncExitStack() as stack:
            if owned is not None:
                await stack.enter_async_context(owned)
            if running:
                await stack.enter_async_context(_ticking(twin))
            yield

    routes = [
        *Api(twin, "bfl").routes(),
        *Api(twin, "gptproto").routes(),
        *Delivery(twin).routes(),
        *Controls(twin).routes(),
    ]
    return TwinApp(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: _not_served})


def build(ready_after_s: float = 2.0, profile: Profile = "b", seed: int | None = None) -> TwinApp:
    """Return a twin that uses the real clock and real HTTP. Without a seed, each run has different task IDs."""
    rules = preset(profile).model_copy(update={"ready_after": timedelta(seconds=ready_after_s)})
    # Callbacks ignore proxies from environment variables.
    limits = httpx.Limits(max_connections=1000, max_keepalive_connections=100)
    no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=()))
    send = httpx.AsyncClient(trust_env=False, cookies=no_cookies, limits=limits)
    seed = int.from_bytes(os.urandom(8)) if seed is None else seed
    return create_twin_app(Twin(rules, now=utc_now, send=send, seed=seed), owned=send)


@asynccontextmanager
async def _ticking(twin: Twin) -> AsyncGenerator[None, None]:
    ticking = asyncio.create_task(twin.run())
    try:
        yield
    finally:
        ticking.cancel()
        with suppress(asyncio.CancelledError):
            await ticking  # raises if the twin itself failed


async def _not_served(_: Request, problem: Exception) -> Response:
    status, detail = (problem.status_code, problem.detail) if isinstance(problem, HTTPException) else (500, "")
    return JSONResponse({"detail": detail}, status)
