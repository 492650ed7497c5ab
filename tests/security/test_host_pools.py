"""Connections are kept for each host name, and a request on one that has just been closed is sent again."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network

import httpx
import pytest

from app.security.host_pools import HostPools
from app.security.http_clients import guarded_client
from tests.sockets import until

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
LONG = httpx.Limits(max_keepalive_connections=8, keepalive_expiry=3600)  # however slow the test is
LOOPBACK = (ip_network("127.0.0.0/8"),)


@dataclass
class Server:
    """Answers requests, but cuts each connection at the request of this number, 1 for the first."""

    cuts_at: int | None = None
    port: int = 0
    requests: list[str] = field(default_factory=list)  # host names, of answered and of cut requests
    open: set[asyncio.StreamWriter] = field(default_factory=set)
    connections: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open.add(writer)
        served = 0
        while head := await _head(reader):
            served += 1
            self.requests.append(head.partition("host: ")[2].partition(":")[0])
            if served == self.cuts_at:
                break
            writer.write(OK)
        writer.close()
        self.open.discard(writer)


async def _head(reader: asyncio.StreamReader) -> str:
    try:
        return (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    except (asyncio.IncompleteReadError, ConnectionError):
        return ""


@asynccontextmanager
async def calling(server: Server, *, idle_s: float = 3600) -> AsyncGenerator[httpx.AsyncClient]:
    """Run the server, and yield a client for which every name leads to it."""
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    pools = HostPools(lambda: httpx.AsyncHTTPTransport(trust_env=False, limits=LONG), idle_s=idle_s)
    async with guarded_client(LOOPBACK, pools, resolve=lambda _host, _port: ["127.0.0.1"]) as client:
        yield client
    listening.close()


def url(server: Server, host: str = "app.example") -> str:
    return f"http://{host}:{server.port}/hook"


async def test_requests_to_a_host_share_a_connection() -> None:
    server = Server()
    async with calling(server) as client:
        for _ in range(3):
            assert (await client.post(url(server), content=b"{}")).text == "ok"

    assert (len(server.requests), server.connections) == (3, 1)


async def test_host_names_at_one_address_do_not_share_a_connection() -> None:
    server = Server()
    async with calling(server) as client:
        for host in ("one.example", "two.example", "one.example"):
            await client.get(url(server, host))

    assert server.requests == ["one.example", "two.example", "one.example"]
    assert server.connections == 2


async def test_a_request_on_a_connection_that_was_just_closed_is_sent_again() -> None:
    server = Server(cuts_at=2)
    async with calling(server) as client:
        answers = [(await client.post(url(server), content=b"{}")).text for _ in range(3)]

    assert answers == ["ok"] * 3
    assert (len(server.requests), server.connections) == (5, 3)


async def test_a_request_that_breaks_a_new_connection_is_not_sent_again() -> None:
    server = Server(cuts_at=1)
    async with calling(server) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post(url(server), content=b"{}")

    assert len(server.requests) == 1


async def test_connections_are_kept_for_a_limited_number_of_hosts() -> None:
    server = Server()
    async with calling(server) as client:
        for number in range(70):
            await client.get(url(server, f"host{number}.example"))

        async def only_64_are_open() -> bool:
            return len(server.open) == 64

        await until(only_64_are_open)

    assert server.connections == 70


async def test_a_host_in_use_is_not_forgotten() -> None:
    server = Server()
    async with calling(server) as client, client.stream("GET", url(server, "first.example")) as answer:
        for number in range(70):
            await client.get(url(server, f"host{number}.example"))
        body = await answer.aread()

    assert body == b"ok"


async def test_connections_to_a_host_are_closed_when_it_is_idle() -> None:
    server = Server()
    async with calling(server, idle_s=0.01) as client:
        for _ in range(2):
            await client.get(url(server))

            async def none_is_open() -> bool:
                return not server.open

            await until(none_is_open)

    assert len(server.requests) == server.connections == 2


async def test_a_host_in_use_is_not_idle() -> None:
    server = Server()
    async with calling(server, idle_s=0.01) as client, client.stream("GET", url(server)) as answer:
        await client.get(url(server))
        await asyncio.sleep(0.1)
        body = await answer.aread()

    assert body == b"ok"
