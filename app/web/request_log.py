"""One line for each request, written at its end; the same is counted, and is a span where tracing is on."""

import time
from collections.abc import Awaitable, Callable, MutableMapping
from functools import cache
from typing import Any

from opentelemetry.trace import Span, SpanKind
from prometheus_client import Histogram

from app import ids
from app.telemetry import logs, metrics, tracing

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[Message, Receive, Send], Awaitable[None]]

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_UNTRACED = frozenset({"/healthz", "/readyz", "/metrics"})  # asked every few seconds, about no task
_SERVER_ERROR = 500


class RequestLog:
    """ASGI middleware. It names the route's template, because a path may hold a token."""

    def __init__(self, app: Asgi) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"] in _UNTRACED:
            await self._observe(scope, receive, send)
        else:
            with tracing.span("request", SpanKind.SERVER, within=_traceparent(scope)) as span:
                await self._observe(scope, receive, send, span)

    async def _observe(self, scope: Message, receive: Receive, send: Send, span: Span | None = None) -> None:
        started, status = time.monotonic(), _SERVER_ERROR

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])
            await send(message)

        with logs.collecting() as facts:
            try:
                await self._app(scope, receive, note_status)
            except Exception:
                facts["code"] = "internal_error"
                raise
            finally:
                _tell(scope, status, time.monotonic() - started, facts, span)


def _tell(scope: Message, status: int, seconds: float, facts: dict[str, Any], span: Span | None) -> None:
    method, route = scope["method"], getattr(scope.get("route"), "path", "no such route")
    known = {"key_id": scope.get("state", {}).get("key_id"), "task_id": _task_id(scope), **facts}
    counted = tell(method, route, status, seconds, dict(known))
    if span is None:
        return
    span.update_name(f"{counted} {route}")
    span.set_attributes({"http.request.method": counted, "http.route": route, "http.response.status_code": status})
    span.set_attributes({f"fluxhook.{name}": value for name, value in known.items() if value is not None})
    if status >= _SERVER_ERROR:
        tracing.fail(span, str(known.get("code", status)))


def tell(method: str, route: str, status: int, seconds: float, known: dict[str, Any]) -> str:
    """Write the line of one request and count it; gives the method as it is counted."""
    known |= {"method": method, "route": route, "status": status, "ms": int(seconds * 10_000) / 10}
    logs.emit("request", known, logger="web")
    counted = method if method in _METHODS else "other"
    _histogram(counted, route, status).observe(seconds)
    return counted


@cache
def _histogram(method: str, route: str, status: int) -> Histogram:
    """Looked up once for each: their names are ours, so there are not many."""
    found: Histogram = metrics.http_requests.labels(method, route, status)
    return found


def _traceparent(scope: Message) -> str | None:
    """The trace that the caller is in, if it says so."""
    found = (value for name, value in scope["headers"] if name == b"traceparent")
    return next((value.decode("latin-1") for value in found), None)


def _task_id(scope: Message) -> str | None:
    """The id in the path, where it is one: anything may stand there, a key or a prompt too."""
    given = scope.get("path_params", {}).get("task_id", "")
    return given if ids.is_id("task", given) else None
