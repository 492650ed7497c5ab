"""A proxy before the service that gives up requests when a test says so, as proxies with a time limit do."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_PAGE = b"<html><h1>504 Gateway Time-out</h1></html>"
_GIVEN_UP = (
    b"HTTP/1.1 504 Gateway Time-out\r\ncontent-type: text/html\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(_PAGE), _PAGE)
)


@dataclass
class _Passage:
    """One connection of a client, and the one to the service that belongs to it."""

    to_client: asyncio.StreamWriter
    to_service: asyncio.StreamWriter
    is_asked: bool = False  # a request has been passed on, and no end of an answer
    has_answered: bool = False  # bytes of its answer have been passed on
    is_quiet: bool = False  # no byte came from the service since the last look


@dataclass
class CuttingProxy:
    """`address` leads to the service. A client that is given up gets a page with 504, or a closed connection."""

    service: str
    with_page: bool = True
    address: str = ""
    received: int = 0  # pieces that came from the service
    _passages: list[_Passage] = field(default_factory=list)

    @property
    def waiting(self) -> int:
        """How many requests have no answer yet."""
        return sum(passage.is_asked and not passage.has_answered for passage in self._passages)

    async def is_waiting(self) -> bool:
        return self.waiting == 1

    def cut(self) -> int:
        """Give up the requests without any answer. Return how many there were."""
        return self._give_up([each for each in self._passages if each.is_asked and not each.has_answered])

    def cut_idle(self) -> int:
        """Give up the requests for which no byte came since the last call. Return how many there were."""
        idle = [passage for passage in self._passages if passage.is_asked and passage.is_quiet]
        for passage in self._passages:
            passage.is_quiet = True
        return self._give_up(idle)

    def _give_up(self, passages: list[_Passage]) -> int:
        for passage in passages:
            self._passages.remove(passage)
            passage.to_service.close()
            if self.with_page and not passage.has_answered:
                passage.to_client.write(_GIVEN_UP)
            passage.to_client.close()
        return len(passages)

    async def serve(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        """Pass on one connection."""
        parts = urlsplit(self.service)
        from_service, to_service = await asyncio.open_connection(parts.hostname, parts.port)
        passage = _Passage(to_client, to_service)
        self._passages.append(passage)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._ask(passage, from_client))
                group.create_task(self._answer(passage, from_service))
        except* OSError:
            pass  # one side has gone
        finally:
            to_client.close()
            to_service.close()
            if passage in self._passages:
                self._passages.remove(passage)

    async def _ask(self, passage: _Passage, source: asyncio.StreamReader) -> None:
        while data := await source.read(65536):
            passage.is_asked, passage.has_answered, passage.is_quiet = True, False, False
            passage.to_service.write(data)
            await passage.to_service.drain()
        passage.to_service.close()

    async def _answer(self, passage: _Passage, source: asyncio.StreamReader) -> None:
        while data := await source.read(65536):
            passage.has_answered, passage.is_quiet = True, False
            self.received += 1
            passage.to_client.write(data)
            await passage.to_client.drain()
        passage.to_client.close()


@asynccontextmanager
async def cutting_proxy(service: str, *, with_page: bool = True) -> AsyncGenerator[CuttingProxy]:
    proxy = CuttingProxy(service, with_page)
    async with await asyncio.start_server(proxy.serve, "127.0.0.1", 0) as server:
        proxy.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield proxy
