"""uvicorn's HTTP protocol with a short way for callbacks: judged where their last byte arrives, answered in one write.

An ASGI cycle (a scope, a task, two messages out) takes longer than to prove a callback, and one event loop serves the
burst after an outage and the flood of a forger. Only what is usual goes the short way. All else goes through the
application, whose route gives the same answers: bodies that are long or come in chunks, a request that comes before the
last one is answered, a client that does not read its answers, and everything while tracing is on.

An upgrade that a client offers, as many do to HTTP/2 by themselves, is passed over for every route.
"""

import asyncio
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httptools
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from app import callback
from app.callback import Judged, Reply
from app.resources import Resources
from app.telemetry import logs, tracing
from app.web import request_log
from app.web.routes import callback_receiver

if TYPE_CHECKING:
    from app.security.keyring import CallbackProof

_ADDRESS = re.compile(rb"/callbacks/([A-Za-z0-9_]{1,48})/([A-Za-z0-9_-]{1,64})")
_NOBODY_WAITS = asyncio.Event()  # set whenever more of a body has come, for an application that waits for it
_NOBODY_WAITS.set()
_NO_HTTP = "Invalid HTTP request received."  # in uvicorn's words


def resources_of(app: object) -> Resources | None:
    """What an application of ours works with, once it has started; None where it is another, as the twin."""
    use = getattr(getattr(app, "state", None), "use", None)
    return use if isinstance(use, Resources) else None


class Protocol(HttpToolsProtocol):
    """One connection. uvicorn reads the requests; those that are callbacks it need not see."""

    cycle: "RequestResponseCycle | Exchange | None"  # type: ignore[assignment]
    _use: Resources | None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        super().connection_made(transport)
        self._use = resources_of(self.config.app)  # which has started by now

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        try:
            self._read(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):  # the latter is a CONNECT
            self.logger.warning(_NO_HTTP)
            self.send_400_response(_NO_HTTP)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Spaces after a value are no part of it (RFC 9110, 5.5); httptools takes away those before it only."""
        HttpToolsProtocol.on_header(self, name, value.rstrip(b" \t"))  # super() takes longer than all the rest

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            return  # its head will be read again, without the offer
        self._unset_keepalive_if_required()  # armed where the request before it was answered as it was read
        address = _ADDRESS.fullmatch(self.url)
        if address is None or self._use is None or not self._is_usual():
            super().on_headers_complete()
            return
        submission_id, token = address.groups()
        self.cycle = Exchange(self, self._use, submission_id.decode(), token.decode())
        self.cycle.open()

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        cycle = self.cycle
        super().on_message_complete()
        if isinstance(cycle, Exchange):
            cycle.judge()

    def connection_lost(self, exc: Exception | None) -> None:
        cycle = self.cycle
        super().connection_lost(exc)
        if isinstance(cycle, Exchange):
            cycle.lose()
            self.cycle = None  # the two hold each other, and a collection of garbage stops everybody

    def _read(self, data: bytes | memoryview) -> None:
        """Read requests, those that offer an upgrade as if they did not (RFC 9110, 7.8).

        httptools ends such a request with its head, and would run what follows, its body, as the next one.
        """
        while True:
            try:
                return self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as stop:
                data = memoryview(data)[stop.args[0] :]
                self._read_head_again()

    def _read_head_again(self) -> None:
        head = [b"%s: %s\r\n" % (name, value) for name, value in self.headers if name != b"upgrade"]
        version = self.parser.get_http_version().encode()
        first = b"%s %s HTTP/%s\r\n" % (self.parser.get_method(), self.url, version)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
        self.parser.feed_data(b"".join((first, *head, b"\r\n")))

    def _is_usual(self) -> bool:
        length = callback_receiver.announced(self.headers)
        return (
            self.parser.get_method() == b"POST"
            and (self.cycle is None or self.cycle.response_complete)
            and not (self.expect_100_continue or self.flow.write_paused)
            and length is not None
            and length <= HIGH_WATER_LIMIT  # up to there uvicorn reads on by itself
            and not tracing.is_on()
        )


class Exchange:
    """One callback and its answer, in the place of uvicorn's own cycle, which is asked for the first six of these."""

    def __init__(self, protocol: Protocol, use: Resources, submission_id: str, token: str) -> None:
        self.body = bytearray()
        self.more_body = True
        self.message_event = _NOBODY_WAITS
        self.response_complete = False
        self.disconnected = False
        self.keep_alive = protocol.parser.get_http_version() != "1.0" and protocol.parser.should_keep_alive()
        self._protocol = protocol
        self._use = use
        self._submission_id = submission_id
        self._token = token
        self._headers = protocol.headers
        self._proof: CallbackProof | None = None
        self._judged: Judged | None = None
        self._facts: dict[str, Any] = {}  # for the line of the log
        self._started = time.monotonic()

    def open(self) -> None:
        """The address and the headers are there: a wrong address is answered before any body."""
        self._take(self._prove)

    def judge(self) -> None:
        """All of it is there."""
        if not self.response_complete:
            self._take(self._keep)

    def lose(self) -> None:
        """The connection is gone. What has come whole is kept all the same."""
        if self.more_body and not self.response_complete:
            self._take(_give_up)

    def _prove(self) -> Reply | None:
        self._proof = self._use.keys.prove_token(self._submission_id, self._token)
        return callback.tell(Reply.UNKNOWN) if self._proof is None else None

    def _keep(self) -> Reply | None:
        assert self._proof is not None  # noqa: S101 - without one it was answered
        body = bytes(self.body)
        self._judged = judged = callback.judge(self._use, self._submission_id, self._proof, self._headers, body)
        if judged.kept is None:
            return callback.reply_to(judged)
        judged.kept.add_done_callback(self._kept)
        return None

    def _kept(self, _: object) -> None:
        self._take(self._reply)

    def _reply(self) -> Reply:
        assert self._judged is not None  # noqa: S101 - that it is kept is what we hear of
        return callback.reply_to(self._judged)

    def _take(self, step: Callable[[], Reply | None]) -> None:
        """Take a step, and answer if it says with what."""
        with logs.collecting(self._facts):
            try:
                reply = step()
                response = callback_receiver.answer(reply) if reply is not None else None
            except Exception as error:  # noqa: BLE001 - whatever it was, the provider is to call again
                response = callback_receiver.refused(error)
        if response is not None:
            self._write(response)

    def _write(self, response: Response) -> None:
        protocol = self._protocol
        self.response_complete = True
        if not protocol.transport.is_closing():
            protocol.transport.write(self._bytes(response))
            if not self.keep_alive:
                protocol.transport.close()
            protocol.on_response_complete()
        took = time.monotonic() - self._started
        request_log.tell("POST", callback_receiver.ROUTE, response.status_code, took, self._facts)

    def _bytes(self, response: Response) -> bytes:
        parts = [STATUS_LINE[response.status_code]]
        for name, value in (*self._protocol.server_state.default_headers, *response.raw_headers):
            parts += (name, b": ", value, b"\r\n")
        if not self.keep_alive:
            parts.append(b"connection: close\r\n")
        return b"".join((*parts, b"\r\n", response.body))


def _give_up() -> None:
    raise ClientDisconnect
