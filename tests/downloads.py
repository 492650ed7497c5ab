"""Hosts of results in tests: each name has a public address, and servers see the name that was requested."""

import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx

from app.security.http_clients import results_client

PUBLIC = "93.184.216.34"
Answer = Callable[[httpx.Request], httpx.Response]


@dataclass
class ByName(httpx.AsyncBaseTransport):
    """Undo the pinning of a request to an address, so that tests recognize it by its URL."""

    inner: httpx.AsyncBaseTransport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        host = httpx.URL(f"//{request.headers['host']}").host
        request.url = request.url.copy_with(host=host)
        return await self.inner.handle_async_request(request)


def look_up(host: str, _port: int) -> Sequence[str]:
    """Resolve an address to itself, and a name to a public address, or to loopback if it ends in `.internal`."""
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        return ["127.0.0.1" if host.endswith(".internal") else PUBLIC]


def downloads_from(inner: httpx.AsyncBaseTransport | Answer, *origins: str) -> httpx.AsyncClient:
    """Return a client for results that reaches this server under every name; `origins` are the providers'."""
    server = inner if isinstance(inner, httpx.AsyncBaseTransport) else httpx.MockTransport(inner)
    return results_client(ByName(server), origins=origins, resolve=look_up)
