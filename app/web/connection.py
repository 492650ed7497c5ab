"""uvicorn's HTTP protocol with limits: how much a client may send around a body, how slowly, on how many connections.

uvicorn with httptools limits only the idle time after a response. An offered protocol upgrade is ignored on every
route; many clients offer HTTP/2 by default.
"""

import asyncio
from enum import Enum, auto
from http import HTTPStatus
from operator import itemgetter
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from app.telemetry.metrics import Refusal, connections_refused
from app.web.limits import DEFAULT_LIMITS, Limits

_VERSIONS = frozenset({"1.0", "1.1"})  # the parser also reads a request line without a version, as HTTP/0.9
_INVALID = "Invalid HTTP request received."  # uvicorn's text
_LINGER_S = 2.0  # a connection that is closed while data arrives is reset, and the client may not see the answer
_MAX_PIPELINED = 32  # requests that wait for the answer to an earlier one; uvicorn takes all that arrive in one read
_CHUNK_OVERHEAD = 8  # bytes of chunk headers for each byte of a body: a chunk may hold a single byte
# For how many times `stall_s` a client may not read: the system buffers megabytes, so a slow reader pauses for minutes.
_READ_FACTOR = 10


class Phase(Enum):
    """What the client may send next."""

    IDLE = auto()
    HEAD = auto()
    BODY = auto()


class Connection(HttpToolsProtocol):
    """One connection that keeps to its limits."""

    cycle: RequestResponseCycle | None  # type: ignore[assignment]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.limits = limits
        self._phase = Phase.IDLE
        self._patience = limits.head_s  # seconds in which the client must send more
        self._head_bytes = 0  # of the current request, with its trailers
        self._body_bytes = 0
        self._other_bytes = 0  # received since the last complete request, without its body
        self._violation = (HTTPStatus.BAD_REQUEST, Refusal.INVALID)
        self._refusal: bytes | None = None
        self.lingers = False  # the refusal is sent
        self._unsent, self._unread_s = 0, 0.0  # bytes of answers that the client does not read, and for how long
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # uvicorn's signature
        super().connection_made(transport)
        self._timer = self.loop.call_later(self.limits.tick_s, self._tick)
        if len(self.connections) > self.limits.connections:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            return
        self._unset_keepalive_if_required()
        self._other_bytes += len(data)
        try:
            self._read(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):  # the latter for CONNECT
            self.refuse(*self._violation)
        else:
            # A line that has no end yet is in the parser, which has no limit.
            if self._other_bytes > self.limits.head_bytes + _CHUNK_OVERHEAD * self._body_bytes:
                self.refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, Refusal.LARGE_HEAD)

    # Callbacks of the parser

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._phase, self._patience = Phase.HEAD, self.limits.head_s
        self._head_bytes = self._body_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._head_bytes += len(url)
        if self._head_bytes > self.limits.head_bytes:
            self._stop(HTTPStatus.REQUEST_URI_TOO_LONG)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Strip trailing whitespace from the value (RFC 9110, 5.5); httptools strips leading whitespace only."""
        self._head_bytes += len(name) + len(value) + 4  # a colon, a space and a line end
        if self._head_bytes > self.limits.head_bytes or len(self.headers) >= self.limits.headers:
            self._stop(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        HttpToolsProtocol.on_header(self, name, value.rstrip(b" \t"))  # super() would take most of the time

    def on_headers_complete(self) -> None:
        self._phase, self._patience = Phase.BODY, self.limits.stall_s
        if self.parser.get_http_version() not in _VERSIONS:
            self._stop(HTTPStatus.BAD_REQUEST, Refusal.INVALID)
        if not self.parser.should_upgrade():  # otherwise `_read_head_again` parses the head without the upgrade
            self._unset_keepalive_if_required()  # set if the previous request was answered during the same read
            self.on_request_head()

    def on_request_head(self) -> None:
        """Handle the complete head of a request."""
        if len(self.pipeline) >= _MAX_PIPELINED:
            self._stop(HTTPStatus.SERVICE_UNAVAILABLE, Refusal.TOO_MANY)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._other_bytes -= len(body)
        self._body_bytes += len(body)
        if (
            self.cycle is not None and not self.cycle.response_complete
        ):  # what an early answer leaves over must arrive within `stall_s`
            self._patience = min(self.limits.stall_s, self._patience + len(body) / self.limits.bytes_per_s)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            self._phase, self._patience = Phase.IDLE, self.limits.idle_s
            self._other_bytes = 0
            self.on_request_complete()

    def on_request_complete(self) -> None:
        """Handle the complete request."""
        super().on_message_complete()

    def _stop(self, status: HTTPStatus, reason: Refusal = Refusal.LARGE_HEAD) -> None:
        """Make the parser fail."""
        self._violation = (status, reason)
        raise OverflowError

    def _read(self, data: bytes | memoryview) -> None:
        """Parse requests and ignore offered upgrades (RFC 9110, 7.8).

        httptools ends a request with an upgrade after its head, and would parse its body as the next request.
        """
        while True:
            try:
                return self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = memoryview(data)[upgrade.args[0] :]
                self._read_head_again()

    def _read_head_again(self) -> None:
        head = [b"%s: %s\r\n" % (name, value) for name, value in self.headers if name != b"upgrade"]
        version = self.parser.get_http_version().encode()
        request_line = b"%s %s HTTP/%s\r\n" % (self.parser.get_method(), self.url, version)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as in uvicorn
        self.parser.feed_data(b"".join((request_line, *head, b"\r\n")))

    # The end of a connection

    def refuse(self, status: HTTPStatus, reason: Refusal) -> None:
        """Read no more, answer the complete requests, then send this status and close.

        An incomplete request gets no other answer: its application sees a disconnect.
        """
        if self._refusal is not None or self.transport.is_closing():
            return
        connections_refused.labels(reason.value).inc()
        self._refusal = self._bytes_of(status)
        self.flow.pause_reading()
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            self._send_refusal()
        elif not cycle.more_body:
            pass  # `on_response_complete` sends it
        elif self.pipeline:
            self.pipeline.popleft()  # uvicorn adds to this end; the earlier requests are answered first
        elif getattr(cycle, "response_started", False):
            self.transport.abort()
        else:
            cycle.disconnected = True
            cycle.message_event.set()
            self._send_refusal()

    def on_response_complete(self) -> None:
        if self._refusal is not None and not self.pipeline:
            self._send_refusal()
            return
        super().on_response_complete()
        if self._refusal is not None:
            self.flow.pause_reading()

    def _send_refusal(self) -> None:
        """Send the refusal, and drop what comes until the client closes."""
        if self._refusal is not None and not self.transport.is_closing():
            self.transport.write(self._refusal)
            self.transport.write_eof()
            self.flow.resume_reading()
            self.lingers, self._patience = True, _LINGER_S

    def _bytes_of(self, status: HTTPStatus) -> bytes:
        text = _INVALID if status is HTTPStatus.BAD_REQUEST else f"{status.phrase}."
        lines = [b"%s: %s\r\n" % header for header in self.server_state.default_headers]
        lines += (b"content-type: text/plain; charset=utf-8\r\n", b"content-length: %d\r\n" % len(text))
        if status is HTTPStatus.SERVICE_UNAVAILABLE:
            lines.append(b"retry-after: 5\r\n")
        return b"".join((STATUS_LINE[status], *lines, b"connection: close\r\n\r\n", text.encode()))

    def _tick(self) -> None:
        self._timer = self.loop.call_later(self.limits.tick_s, self._tick)
        self.spend(self.limits.tick_s)

    def spend(self, seconds: float) -> None:
        """Count down the time of the client, and end the connection if it is over."""
        unsent = self.transport.get_write_buffer_size()
        self._unread_s = self._unread_s + seconds if unsent and unsent >= self._unsent else 0.0
        self._unsent = unsent
        if self._has_to_send():
            self._patience -= seconds
        left = self.time_left
        if left is not None and left < 0:
            self._give_up()

    @property
    def time_left(self) -> float | None:
        """The seconds in which the client must read or send more; None while it waits for the server."""
        if self._unread_s:
            return _READ_FACTOR * self.limits.stall_s - self._unread_s
        return self._patience if self._has_to_send() else None

    def _has_to_send(self) -> bool:
        if self._refusal is not None or self.transport.is_closing():
            return self.lingers
        if self.flow.read_paused:
            return False
        return self._phase is not Phase.IDLE or self.cycle is None or self.cycle.response_complete

    def _give_up(self) -> None:
        answered = self._phase is Phase.BODY and self.cycle is not None and self.cycle.response_complete
        if self._unread_s:
            connections_refused.labels(Refusal.UNREAD.value).inc()
            self.transport.abort()
        elif self.lingers or self._phase is Phase.IDLE or answered:
            self.transport.close()
        else:
            in_head = self._phase is Phase.HEAD
            self.refuse(HTTPStatus.REQUEST_TIMEOUT, Refusal.SLOW_HEAD if in_head else Refusal.SLOW_BODY)

    def _make_room(self) -> None:
        """Close the connection whose client has the least time left. If all wait for the server, refuse this one."""
        others = [each for each in self.connections if isinstance(each, Connection) and each is not self]
        refused, live = [each for each in others if each.lingers], [each for each in others if not each.lingers]
        candidates = live if len(live) >= self.limits.connections else refused
        times = [(each.time_left, each) for each in candidates if each.time_left is not None]
        if times:
            connections_refused.labels(Refusal.TOO_MANY.value).inc()
            min(times, key=itemgetter(0))[1].transport.abort()
        elif len(refused) < self.limits.connections:
            self.refuse(HTTPStatus.SERVICE_UNAVAILABLE, Refusal.TOO_MANY)
        else:
            self.transport.abort()
