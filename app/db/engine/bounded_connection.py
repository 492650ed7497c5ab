"""A connection of the driver that never waits for the server without a limit.

The driver's own `command_timeout` asks the server to cancel the statement and waits for it, which a server that is gone
never answers. Here, a connection without an answer is closed at once, and is not used again.
"""

import asyncio
import socket
import weakref
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import asyncpg  # type: ignore[import-untyped]

from app.db.engine.timeouts import TIMEOUTS, Timeouts
from app.telemetry import logs

# The driver's requests that wait for an answer.
_REQUESTS = frozenset(
    {"prepare", "bind_execute", "bind_execute_many", "bind", "execute", "query", "copy_in", "copy_out"}
    | {"close_statement", "close_portal"}
)
# The kernel closes a connection whose packets are not acknowledged, also an idle one.
_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}

log = logs.get("database")


class BoundedConnection(asyncpg.Connection):  # type: ignore[misc] # it has no types
    """Ends itself if the server does not answer in time, or if a caller stops waiting for an answer."""

    def __init__(self, protocol: Any, transport: asyncio.BaseTransport, *args: Any) -> None:
        super().__init__(protocol, transport, *args)
        self._transport_socket = transport.get_extra_info("socket")
        self._bounded = _BoundedProtocol(protocol, self)
        self._protocol = self._bounded  # the driver sends all its requests through this attribute
        self.on_close: Callable[[int], object] | None = None  # called once, with the process number of the session
        self.limit(TIMEOUTS)

    def limit(self, timeouts: Timeouts | None) -> None:
        """Set the limits for the requests from now on; None: wait as long as the connection lives."""
        self._bounded.timeouts = timeouts
        if timeouts is not None:
            _probe(self._transport_socket, timeouts)

    def terminate(self) -> None:
        """Close the connection at once. If it has fallen silent, the server does not learn of it."""
        on_close, self.on_close = self.on_close, None
        if on_close is not None:
            on_close(self.get_server_pid())
        super().terminate()

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ARG002, ASYNC109 - as the driver declares it
        """Tell the server, and close the connection without waiting for its answer."""
        self.terminate()


class _BoundedProtocol:
    """The driver's protocol, with a limit on each request."""

    __slots__ = ("_connection", "_protocol", "timeouts")

    def __init__(self, protocol: Any, connection: BoundedConnection) -> None:
        self._protocol = protocol
        self._connection = weakref.ref(connection)
        self.timeouts: Timeouts | None = None

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._protocol, name)
        return partial(self._request, name, attribute) if name in _REQUESTS else attribute

    async def _request(self, name: str, send: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        if self.timeouts is None:
            return await send(*args, **kwargs)
        # The driver itself sends BEGIN, ROLLBACK, SET and LISTEN as simple queries: all but COMMIT take no time.
        is_instant = name == "query" and not str(args[0]).startswith("COMMIT")
        limit_s = self.timeouts.begin_s if is_instant else self.timeouts.answer_s
        timer = asyncio.get_running_loop().call_later(limit_s, self._end)
        try:
            return await send(*args, **kwargs)
        except asyncio.CancelledError:
            self._terminate()  # the answer could still come, and would be taken for that to another request
            raise
        finally:
            timer.cancel()

    def _end(self) -> None:
        log.warning("database_connection_closed", reason="no answer in time")
        self._terminate()

    def _terminate(self) -> None:
        connection = self._connection()
        if connection is not None:
            connection.terminate()


def _probe(connected: socket.socket | None, timeouts: Timeouts) -> None:
    """Have the kernel notice a server that is gone. Not every system has each of these options."""
    if connected is None or connected.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {**_KEEPALIVE, "TCP_USER_TIMEOUT": int(timeouts.answer_s * 1000)}
    for name, value in options.items():
        if hasattr(socket, name):
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
