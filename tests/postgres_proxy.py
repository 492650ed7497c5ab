"""A proxy between the service and PostgreSQL: it can lose the answer to one commit, fall silent, and be slow."""

import asyncio
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

from benchmarks.postgres_server import PLACE

_SOCKET = ".s.PGSQL.5432"
_COMMITTED = b"COMMIT\0"  # the command tag of the answer


@dataclass
class Proxy:
    """`url` leads to the database through the proxy.

    The answer to the next commit of a transaction that sends `marker` is lost, and its connection with it. Each packet
    takes `delay_s`. If `is_silent`, new connections are accepted, and nothing is passed on.
    """

    url: str
    marker: bytes | None = None
    cuts: int = 0
    delay_s: float = 0
    is_silent: bool = False
    _links: list["_Link"] = field(default_factory=list)

    def silence(self, *, new_connections: bool = False) -> None:
        """From now on, all packets of existing connections are lost, as if a NAT had forgotten them.

        The server does not notice that a client closes such a connection. With `new_connections`, new ones are silent
        too, until `speak`.
        """
        for link in self._links:
            link.is_silent = True
        self.is_silent = new_connections

    def speak(self) -> None:
        """Let new connections work. Existing ones stay silent."""
        self.is_silent = False

    async def serve(self, folder: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on one connection."""
        server_reader, server_writer = await asyncio.open_unix_connection(f"{folder}/{_SOCKET}")
        link = _Link(self, is_silent=self.is_silent)
        self._links.append(link)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(link.requests(reader, server_writer))
                group.create_task(link.answers(server_reader, writer))
            if link.is_silent:
                await asyncio.Event().wait()  # the other side does not notice the end of this one
        finally:
            server_writer.close()
            writer.close()


@dataclass
class _Link:
    """One connection through the proxy."""

    proxy: Proxy
    is_silent: bool
    is_marked: bool = False

    async def requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if self.proxy.marker is not None and self.proxy.marker in data:
                    self.proxy.marker = None
                    self.is_marked = True
                await self._pass_on(data, writer)
        if not self.is_silent:
            writer.close()

    async def answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if self.is_marked and _COMMITTED in data:
                    self.proxy.cuts += 1
                    break
                await self._pass_on(data, writer)
        if not self.is_silent:
            writer.close()

    async def _pass_on(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        if self.proxy.delay_s:
            await asyncio.sleep(self.proxy.delay_s)
        if not self.is_silent:
            writer.write(data)


@asynccontextmanager
async def proxy_to(url: str, *, tcp: bool = False) -> AsyncGenerator[Proxy]:
    """Run a proxy in front of a server that listens on a unix socket. It listens on one too, or on a TCP port."""
    parts = urlsplit(url)
    (folder,) = parse_qs(parts.query)["host"]
    with tempfile.TemporaryDirectory(prefix="fluxhook-px-", dir=PLACE) as place:
        proxy = Proxy(urlunsplit(parts._replace(query=urlencode({"host": place}))))
        serving = set[asyncio.Task[None]]()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await proxy.serve(folder, reader, writer)

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            serving.add(asyncio.create_task(serve(reader, writer)))

        if tcp:
            server = await asyncio.start_server(connected, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            proxy.url = urlunsplit(parts._replace(netloc=f"{parts.netloc}127.0.0.1:{port}", query=""))
        else:
            server = await asyncio.start_unix_server(connected, Path(place) / _SOCKET)
        async with server:
            yield proxy
            for task in serving:
                task.cancel()
            await asyncio.gather(*serving, return_exceptions=True)
            await asyncio.sleep(0)  # the closed transports end
