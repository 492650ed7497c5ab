"""uvicorn's HTTP protocol with a fast path for callbacks: verified at their last byte, answered in one write.

An ASGI cycle (a scope, a task, two messages out) takes longer than the verification of a callback, and one event loop
has to serve the burst after an outage and the flood of a forger. Only usual callbacks take the fast path. The others
go through the application, whose route gives the same answers: long or chunked bodies, pipelined requests, clients
that do not read their answers, and all callbacks while tracing is on.
"""

import asyncio
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from app import callback
from app.callback import CheckedCallback, Reply
from app.resources import Resources
from app.telemetry import logs, tracing
from app.web import request_log
from app.web.connection import Connection
from app.web.routes import callback_receiver

if TYPE_CHECKING:
    from app.security.keyring import CallbackProof

_ADDRESS = re.compile(rb"/callbacks/([A-Za-z0-9_]{1,48})/([A-Za-z0-9_-]{1,64})")
_UNUSED_EVENT = asyncio.Event()  # uvicorn sets it when body data arrives; on the fast path no application awaits it
_UNUSED_EVENT.set()


def resources_of(app: object) -> Resources | None:
    """Return the resources of a started Fluxhook application; None for another application, such as the twin."""
    use = getattr(getattr(app, "state", None), "use", None)
    return use if isinstance(use, Resources) else None


class Protocol(Connection):
    """One connection. Usual callbacks are handled by `Exchange`, all other requests by uvicorn."""

    cycle: "RequestResponseCycle | Exchange | None"  # type: ignore[assignment]
    _use: Resources | None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # uvicorn's signature
        super().connection_made(transport)
        self._use = resources_of(self.config.app)  # the application has started by now

    def on_request_head(self) -> None:
        address = _ADDRESS.fullmatch(self.url)
        if address is None or self._use is None or not self._is_usual():
            super().on_request_head()
            return
        attempt_id, token = address.groups()
        self.cycle = Exchange(self, self._use, attempt_id.decode(), token.decode())
        self.cycle.head_received()

    def on_request_complete(self) -> None:
        cycle = self.cycle
        super().on_request_complete()
        if isinstance(cycle, Exchange):
            cycle.body_received()

    def connection_lost(self, exc: Exception | None) -> None:
        cycle = self.cycle
        super().connection_lost(exc)
        if isinstance(cycle, Exchange):
            cycle.connection_lost()
            self.cycle = None  # breaks the reference cycle: a garbage collection stops the event loop

    def _is_usual(self) -> bool:
        length = callback_receiver.content_length(self.headers)
        return (
            self.parser.get_method() == b"POST"
            and (self.cycle is None or self.cycle.response_complete)
            and not (self.expect_100_continue or self.flow.write_paused)
            and length is not None
            and length <= HIGH_WATER_LIMIT  # above it uvicorn pauses reading
            and not tracing.is_on()
        )


class Exchange:
    """One callback and its answer. Takes the place of uvicorn's cycle, whose first six attributes uvicorn reads."""

    def __init__(self, protocol: Protocol, use: Resources, attempt_id: str, token: str) -> None:
        self.body = bytearray()
        self.more_body = True
        self.message_event = _UNUSED_EVENT
        self.response_complete = False
        self.disconnected = False
        self.keep_alive = protocol.parser.get_http_version() != "1.0" and protocol.parser.should_keep_alive()
        self._protocol = protocol
        self._use = use
        self._attempt_id = attempt_id
        self._token = token
        self._headers = protocol.headers
        self._proof: CallbackProof | None = None
        self._checked: CheckedCallback | None = None
        self._facts: dict[str, Any] = {}  # for the request log
        self._started = time.monotonic()

    def head_received(self) -> None:
        """Handle the complete head: a wrong address is answered before the body arrives."""
        self._run(self._verify_token)

    def body_received(self) -> None:
        """Handle the complete request."""
        if not self.response_complete:
            self._run(self._verify_body)

    def connection_lost(self) -> None:
        """Handle the loss of the connection. A completely received callback is still stored."""
        if self.more_body and not self.response_complete:
            self._run(_raise_disconnect)

    def _verify_token(self) -> Reply | None:
        self._proof = self._use.keys.prove_token(self._attempt_id, self._token)
        return callback.count_reply(Reply.UNKNOWN) if self._proof is None else None

    def _verify_body(self) -> Reply | None:
        assert self._proof is not None  # noqa: S101 - a request without a proof was answered at its head
        body = bytes(self.body)
        self._checked = checked = callback.verify_and_store(
            self._use, self._attempt_id, self._proof, self._headers, body
        )
        if checked.stored is not None:
            checked.stored.add_done_callback(self._on_stored)  # to await it would take a task for each callback
            return None
        if not callback.is_occupied(self._use):
            return callback.reply_to(checked)
        pending = self._use.callbacks.pending
        if pending is not None:
            pending.add_done_callback(self._on_stored)
        asyncio.get_running_loop().call_later(callback.FORGED_WAIT_S, self._on_stored, pending)
        return None

    def _on_stored(self, _: object) -> None:
        if not self.response_complete:
            self._run(self._reply)

    def _reply(self) -> Reply:
        assert self._checked is not None  # noqa: S101 - set before the future that calls this
        return callback.reply_to(self._checked)

    def _run(self, step: Callable[[], Reply | None]) -> None:
        """Run a step, and send the answer if the step returns a reply or fails."""
        with logs.collecting(self._facts):
            try:
                reply = step()
                response = callback_receiver.answer(reply) if reply is not None else None
            except Exception as error:  # noqa: BLE001 - after any error the provider must retry
                response = callback_receiver.error_answer(error)
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
        seconds = time.monotonic() - self._started
        request_log.record("POST", callback_receiver.ROUTE, response.status_code, seconds, self._facts)

    def _bytes(self, response: Response) -> bytes:
        parts = [STATUS_LINE[response.status_code]]
        for name, value in (*self._protocol.server_state.default_headers, *response.raw_headers):
            parts += (name, b": ", value, b"\r\n")
        if not self.keep_alive:
            parts.append(b"connection: close\r\n")
        return b"".join((*parts, b"\r\n", response.body))


def _raise_disconnect() -> None:
    raise ClientDisconnect
