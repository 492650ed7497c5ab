"""A proxy between the service and PostgreSQL that can lose the answer to one commit."""

import asyncio
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

from benchmarks.postgres_server import PLACE

_SOCKET = ".s.PGSQL.5432"
_COMMITTED = b"COMMIT\0"  # the command tag of the answer


@dataclass
class Proxy:
    """`url` leads to the database through the proxy.

    The answer to the next commit of a transaction that sends `marker` is lost, and its connection with it.
    """

    url: str
    marker: bytes | None = None
    cuts: int = 0

    async def serve(self, folder: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on one connection."""
        server_reader, server_writer = await asyncio.open_unix_connection(f"{folder}/{_SOCKET}")
        marked = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._requests(reader, server_writer, marked))
            group.create_task(self._answers(server_reader, writer, marked))

    async def _requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, marked: asyncio.Event
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if self.marker is not None and self.marker in data:
                    self.marker = None
                    marked.set()
                writer.write(data)
        writer.close()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, marked: asyncio.Event) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if marked.is_set() and _COMMITTED in data:
                    self.cuts += 1
                    break
                writer.write(data)
        writer.close()


@asynccontextmanager
async def proxy_to(url: str) -> AsyncGenerator[Proxy]:
    """Run a proxy in front of a server that listens on a unix socket."""
    parts = urlsplit(url)
    (folder,) = parse_qs(parts.query)["host"]
    with tempfile.TemporaryDirectory(prefix="fluxhook-px-", dir=PLACE) as place:
        proxy = Proxy(urlunsplit(parts._replace(query=urlencode({"host": place}))))
        serving = set[asyncio.Task[None]]()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await proxy.serve(folder, reader, writer)

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            serving.add(asyncio.create_task(serve(reader, writer)))

        async with await asyncio.start_unix_server(connected, Path(place) / _SOCKET):
            yield proxy
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
