"""The application of the whole-task case: posts tasks over kept connections, and receives their webhooks."""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from benchmarks.wire import answer, request

_OK = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
_MAX_S = 120.0


@dataclass
class Application:
    """Its webhook address, and when the webhook of each task arrived."""

    url: str = ""
    arrived: dict[str, float] = field(default_factory=dict)
    connections: list[asyncio.StreamWriter] = field(default_factory=list)
    _awaited: dict[str, asyncio.Event] = field(default_factory=dict)

    async def webhook_of(self, task_id: str) -> float:
        """Wait for the webhook of this task. Return the time of its arrival. Raises TimeoutError after 120 s."""
        event = self._awaited.setdefault(task_id, asyncio.Event())
        if task_id not in self.arrived:
            async with asyncio.timeout(_MAX_S):
                await event.wait()
        return self.arrived[task_id]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(writer)
        while (message := await _message(reader)) is not None:
            now = perf_counter()
            writer.write(_OK)
            task_id = json.loads(message)["id"]
            self.arrived.setdefault(task_id, now)
            self._awaited.setdefault(task_id, asyncio.Event()).set()
        writer.close()


@asynccontextmanager
async def application() -> AsyncGenerator[Application]:
    """Run an application on a free port of loopback until the block ends."""
    app = Application()
    server = await asyncio.start_server(app.serve, "127.0.0.1", 0)
    app.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
    try:
        yield app
    finally:
        server.close()
        for connection in app.connections:
            connection.close()
        await asyncio.sleep(0)


class Client:
    """One kept connection to a server of tasks."""

    def __init__(self, port: int, headers: Mapping[str, str]) -> None:
        self._port = port
        self._headers = {"content-type": "application/json", "accept": "*/*", **headers}
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, body: Mapping[str, Any]) -> str:
        """Post a task. Return its id. Raises RuntimeError for any answer but 202."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(request("POST", "/v1/tasks", self._headers, json.dumps(body).encode()))
        data = b""
        while (found := answer(data)) is None or len(data) < found[1]:
            more = await reader.read(65536)
            if not more:
                raise RuntimeError("the server closed the connection")
            data += more
        status, length = found
        content = data[:length].partition(b"\r\n\r\n")[2]
        if status != 202:  # noqa: PLR2004 - the status of an accepted task
            raise RuntimeError(f"{status}: {content[:300]!r}")
        task_id: str = json.loads(content)["id"]
        return task_id

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()


async def _message(reader: asyncio.StreamReader) -> bytes | None:
    """Return the body of the next request; None at the end of the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionResetError):
        return None
    lines = (line.partition(b":") for line in head.split(b"\r\n"))
    length = next(int(value) for name, _, value in lines if name.lower() == b"content-length")
    return await reader.readexactly(length)
