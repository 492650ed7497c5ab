"""The listener of a probe: one secret path, whose first deliveries are refused on purpose."""

import asyncio
import socket
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn

_MAX_BODY = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Delivery:
    """A request to the callback path."""

    at: float  # on the clock of the event loop
    answered: int
    method: str
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


@dataclass(slots=True)
class Listener:
    """Answers below `/TOKEN/`: `hello` with the challenge of the query, `callback` by recording a delivery.

    The first `refuse` deliveries are answered with 503, the others with 200.
    """

    token: str
    refuse: int
    on_delivery: Callable[[Delivery], None]
    deliveries: list[Delivery] = field(default_factory=list)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = await _body(receive)
        if scope["path"].endswith(f"/{self.token}/hello"):
            await _answer(send, 200, scope["query_string"])
        elif scope["path"].endswith(f"/{self.token}/callback"):
            status = 503 if len(self.deliveries) < self.refuse else 200
            loop = asyncio.get_running_loop()
            delivery = Delivery(loop.time(), status, scope["method"], tuple(scope["headers"]), body)
            self.deliveries.append(delivery)
            self.on_delivery(delivery)
            await _answer(send, status, b"")
        else:
            await _answer(send, 404, b"")


async def _body(receive: Any) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")[: _MAX_BODY - len(body)]
        if not message.get("more_body"):
            return bytes(body)


async def _answer(send: Any, status: int, body: bytes) -> None:
    headers = [(b"content-length", str(len(body)).encode()), (b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield  # Ctrl-C is for the probe, which then writes its report


@asynccontextmanager
async def listening(listener: Listener, host: str, port: int) -> AsyncGenerator[None]:
    """Serve the listener on this address. Raises OSError if it cannot be listened on."""
    bound = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    config = uvicorn.Config(
        listener,
        access_log=False,
        log_config=None,
        lifespan="off",
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    server = _Server(config)
    running = asyncio.create_task(server.serve([bound]))
    try:
        yield
    finally:
        server.should_exit = True
        await running
        bound.close()
