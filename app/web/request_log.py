"""The request log: one line for each request, written at its end, with a metric and, if tracing is on, a span."""

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
_UNTRACED = frozenset({"/healthz", "/readyz", "/metrics"})  # requested every few seconds, for no task
_SERVER_ERROR = 500


class RequestLog:
    """ASGI middleware. It records the template of the route, because the path may contain a token."""

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
                _record(scope, status, time.monotonic() - started, facts, span)


def _record(scope: Message, status: int, seconds: float, facts: dict[str, Any], span: Span | None) -> None:
    method, route = scope["method"], getattr(scope.get("route"), "path", "no such route")
    fields = {"key_id": scope.get("state", {}).get("key_id"), "task_id": _task_id(scope), **facts}
    method_label = record(method, route, status, seconds, dict(fields))
    if span is None:
        return
    span.update_name(f"{method_label} {route}")
    span.set_attributes({"http.request.method": method_label, "http.route": route, "http.response.status_code": status})
    span.set_attributes({f"fluxhook.{name}": value for name, value in fields.items() if value is not None})
    if status >= _SERVER_ERROR:
        tracing.fail(span, str(fields.get("code", status)))


def record(method: str, route: str, status: int, seconds: float, fields: dict[str, Any]) -> str:
    """Write the log line of a request and observe its duration; return the method's label in the metric.

    `fields` is modified.
    """
    fields |= {"method": method, "route": route, "status": status, "ms": int(seconds * 10_000) / 10}
    logs.emit("request", fields, logger="web")
    method_label = method if method in _METHODS else "other"
    _histogram(method_label, route, status).observe(seconds)
    return method_label


@cache
def _histogram(method: str, route: str, status: int) -> Histogram:
    """Cached without a limit: the labels are bounded, because none is taken from the request unchecked."""
    histogram: Histogram = metrics.http_requests.labels(method, route, status)
    return histogram


def _traceparent(scope: Message) -> str | None:
    """Return the `traceparent` header of the request, if any."""
    values = (value for name, value in scope["headers"] if name == b"traceparent")
    return next((value.decode("latin-1") for value in values), None)


def _task_id(scope: Message) -> str | None:
    """Return the task id in the path, if it is valid: any other text may be a key or a prompt."""
    task_id = scope.get("path_params", {}).get("task_id", "")
    return task_id if ids.is_id("task", task_id) else None
