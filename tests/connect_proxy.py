"""A proxy for tests: it opens tunnels by CONNECT, all of them to one server on this machine."""

import asyncio
import ssl
from base64 import b64decode
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

_END = b"\r\n\r\n"


@dataclass
class ConnectProxy:
    """Answers with `status`, or, with None, not at all; `targets` and `credentials` record what it was asked for."""

    port: int  # of the server that every target leads to
    status: int | None = 200
    targets: list[str] = field(default_factory=list)
    credentials: list[str] = field(default_factory=list)
    address: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(_END)).decode("ascii").split("\r\n")
            self.targets.append(head[0].removesuffix(" HTTP/1.1"))
            for line in head[1:]:
                name, _, value = line.partition(": ")
                if name.lower() == "proxy-authorization":
                    self.credentials.append(b64decode(value.removeprefix("Basic ")).decode())
            if self.status is None:
                await reader.read()  # until the client gives up
                return
            writer.write(f"HTTP/1.1 {self.status} Whatever{_END.decode()}".encode())
            if self.status == 200:
                await self._relay(reader, writer)
        finally:
            writer.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            await asyncio.gather(_copy(reader, server_writer), _copy(server_reader, writer))
        finally:
            server_writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
        else:
            writer.close()
    except OSError:  # the other side has gone
        writer.close()


@asynccontextmanager
async def connect_proxy(
    port: int, status: int | None = 200, tls: ssl.SSLContext | None = None
) -> AsyncGenerator[ConnectProxy]:
    """Run a proxy whose tunnels lead to `port` of this machine; `address` is HOST:PORT of the proxy."""
    proxy = ConnectProxy(port, status)
    async with await asyncio.start_server(proxy.serve, "127.0.0.1", 0, ssl=tls) as server:
        proxy.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield proxy
