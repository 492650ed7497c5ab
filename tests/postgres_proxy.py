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
    takes `delay_s`, so a round trip takes twice as long. If `is_silent`, new connections are accepted, and nothing is
    passed on. With `cut_every` = N, the answer to each N-th commit of any transaction is lost. A connection is silent
    once it has passed on a packet with `silent_after`. `round_trips` counts how often the service waits for an answer.
    """

    url: str
    marker: bytes | None = None
    cuts: int = 0
    delay_s: float = 0
    is_silent: bool = False
    round_trips: int = 0
    cut_every: int = 0
    silent_after: bytes | None = None
    _commits: int = 0
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

    def must_cut(self, *, is_marked: bool) -> bool:
        """Whether to lose the answer to this commit."""
        self._commits += 1
        return is_marked or bool(self.cut_every and self._commits % self.cut_every == 0)

    async def serve(self, folder: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on one connection."""
        server_reader, server_writer = await asyncio.open_unix_connection(f"{folder}/{_SOCKET}")
        link = _Link(self, is_silent=self.is_silent)
        self._links.append(link)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(link.requests(reader, _Line(link, server_writer)))
                group.create_task(link.answers(server_reader, _Line(link, writer)))
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
    is_answered: bool = True

    def fall_silent_after(self, packet: bytes) -> None:
        if self.proxy.silent_after is not None and self.proxy.silent_after in packet:
            self.proxy.silent_after, self.is_silent = None, True

    async def requests(self, reader: asyncio.StreamReader, line: "_Line") -> None:
        async with line.delivering():
            while data := await reader.read(65536):
                if self.proxy.marker is not None and self.proxy.marker in data:
                    self.proxy.marker = None
                    self.is_marked = True
                self.proxy.round_trips += self.is_answered
                self.is_answered = False
                line.send(data)

    async def answers(self, reader: asyncio.StreamReader, line: "_Line") -> None:
        async with line.delivering():
            while data := await reader.read(65536):
                if _COMMITTED in data and self.proxy.must_cut(is_marked=self.is_marked):
                    self.proxy.cuts += 1
                    break
                self.is_answered = True
                line.send(data)


@dataclass
class _Line:
    """One direction of a connection: delivers each packet after the delay, in order."""

    link: _Link
    writer: asyncio.StreamWriter
    _packets: asyncio.Queue[tuple[float, bytes]] = field(default_factory=asyncio.Queue)

    def send(self, data: bytes) -> None:
        self._packets.put_nowait((asyncio.get_running_loop().time() + self.link.proxy.delay_s, data))

    @asynccontextmanager
    async def delivering(self) -> AsyncGenerator[None]:
        """Deliver what the block sends; at its end, close the other side, unless the connection is silent."""
        delivery = asyncio.create_task(self._deliver())
        try:
            with suppress(OSError):
                yield
            await self._packets.join()
        finally:
            delivery.cancel()
        if not self.link.is_silent:
            self.writer.close()

    async def _deliver(self) -> None:
        while True:
            due, data = await self._packets.get()
            await asyncio.sleep(due - asyncio.get_running_loop().time())
            if not self.link.is_silent:
                self.writer.write(data)
                self.link.fall_silent_after(data)
            self._packets.task_done()


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
