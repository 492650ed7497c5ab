"""Kept connections, apart for each host name: a saved handshake is a saved round trip or two for each request.

A pool of httpx finds connections by address. Here the address is one that the SSRF guard has checked, and a connection
that was opened for another name at the same address has been verified against that name's certificate.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from functools import partial

import httpx

# A server that closes an idle connection just then fails a request on it. Usual servers wait for five seconds or more.
_KEPT_S = 4.0
KEPT = httpx.Limits(max_connections=None, max_keepalive_connections=8, keepalive_expiry=_KEPT_S)
_MAX_HOSTS = 64  # whose connections are kept
_CUT = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)


class HostPools(httpx.AsyncBaseTransport):
    """Sends each request on a connection that was opened for the same host name, kept or new.

    The name is `sni_hostname` in the extensions of the request, as the guard sets it, else the host of its URL. If a
    kept connection breaks before an answer begins, the request is sent again, on a new one in the end. So this is for
    requests that may arrive twice. `make` returns a transport that keeps connections.

    The connections of a host are closed after `idle_s` without a request to it: httpx closes an expired connection only
    at the next request on its pool, and there may be none.
    """

    def __init__(self, make: Callable[[], httpx.AsyncBaseTransport], *, idle_s: float = _KEPT_S) -> None:
        self._make = make
        self._idle_s = idle_s
        self._pools: OrderedDict[str, _Pool] = OrderedDict()
        self._closing: set[asyncio.Task[None]] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        pool = self._enter(request.extensions.get("sni_hostname") or request.url.host)
        try:
            response = await _send(pool.transport, request)
        except BaseException:
            pool.leave()
            raise
        if isinstance(response.stream, httpx.AsyncByteStream):
            response.stream = _Used(response.stream, pool)
        return response

    async def aclose(self) -> None:
        for host in list(self._pools):
            self._close(host)
        await asyncio.gather(*self._closing)

    def _enter(self, host: str) -> "_Pool":
        """Return the pool of a host. The caller calls its `leave` once."""
        pool = self._pools.get(host)
        if pool is None:
            pool = self._pools[host] = _Pool(self._make(), self._idle_s, partial(self._close, host))
        self._pools.move_to_end(host)
        pool.enter()
        if len(self._pools) > _MAX_HOSTS:
            unused = next((name for name, other in self._pools.items() if not other.users), None)
            if unused is not None:
                self._close(unused)
        return pool

    def _close(self, host: str) -> None:
        """Close the connections of a host. No request waits for it, or interrupts it if it is cancelled."""
        pool = self._pools.pop(host, None)
        if pool is None:
            return  # all were closed, while a request was under way
        pool.keep()
        closing = asyncio.create_task(pool.transport.aclose())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)


class _Pool:
    """The connections of one host. `users`: requests that have not ended. `close` is called when it was idle."""

    def __init__(self, transport: httpx.AsyncBaseTransport, idle_s: float, close: Callable[[], None]) -> None:
        self.transport = transport
        self.users = 0
        self._idle_s = idle_s
        self._close = close
        self._timer: asyncio.TimerHandle | None = None

    def enter(self) -> None:
        self.users += 1
        self.keep()

    def leave(self) -> None:
        self.users -= 1
        if not self.users:
            self._timer = asyncio.get_running_loop().call_later(self._idle_s, self._close)

    def keep(self) -> None:
        """Cancel the end of its idle time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Used(httpx.AsyncByteStream):
    """The body of a response, whose pool is in use until it is closed."""

    def __init__(self, body: httpx.AsyncByteStream, pool: _Pool) -> None:
        self._body = body
        self._pool = pool
        self._is_closed = False

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        async for part in self._body:
            yield part

    async def aclose(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            try:
                await self._body.aclose()
            finally:
                self._pool.leave()


async def _send(transport: httpx.AsyncBaseTransport, request: httpx.Request) -> httpx.Response:
    """Send a request. One whose kept connection is cut is sent again: each such connection is then gone."""
    is_new = False

    async def trace(event: str, _facts: object) -> None:
        nonlocal is_new
        is_new = is_new or event == "connection.connect_tcp.started"

    request.extensions = {**request.extensions, "trace": trace}
    while True:
        try:
            return await transport.handle_async_request(request)
        except _CUT:
            if is_new or not isinstance(request.stream, httpx.ByteStream):
                raise
