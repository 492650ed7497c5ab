"""One trace for each task, from the submitting request to its last job. Off unless OTEL_ variables enable it.

A span names an operation and its task. It never holds a prompt, a secret, an address or the message of an exception,
because these may contain a token. The context is passed on as a W3C `traceparent`, in a header and in the task's row.
"""

import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Link, Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from app import __version__
from app.errors import ConfigurationError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_SHUTDOWN_S = 1  # to send the last spans; an unavailable collector must not delay the end of the process
_HTTP = "http/protobuf"

_w3c = TraceContextTextMapPropagator()
_tracer: Tracer | None = None  # None: tracing is off


@contextmanager
def sending() -> Generator[None]:
    """Export spans inside the block, if the environment enables it. Raises ConfigurationError for unsupported values.

    OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT and OTEL_TRACES_EXPORTER=otlp turn tracing on.
    OTEL_TRACES_EXPORTER=none and OTEL_SDK_DISABLED=true turn it off. The SDK reads the other variables.
    """
    global _tracer  # noqa: PLW0603 - one for each process, like the log
    if not _is_enabled():
        yield
        return
    provider = _provider()
    _tracer = provider.get_tracer("fluxhook", __version__)
    try:
        yield
    finally:
        _tracer = None
        ending = threading.Thread(target=provider.shutdown, daemon=True)
        ending.start()
        ending.join(_SHUTDOWN_S)


def is_on() -> bool:
    return _tracer is not None


@contextmanager
def span(
    name: str,
    kind: SpanKind = SpanKind.INTERNAL,
    within: str | None = None,
    links: tuple[Link, ...] = (),
    **attributes: str | int | None,
) -> Generator[Span]:
    """Record a span around a block, as a child of the current span or of the traceparent `within`.

    Attributes that are None are omitted. Costs almost nothing while tracing is off.
    """
    if _tracer is None:
        yield INVALID_SPAN
        return
    opened = _tracer.start_as_current_span(
        name,
        context=_context(within),
        kind=kind,
        links=links,
        attributes={f"fluxhook.{key}": value for key, value in attributes.items() if value is not None},
        record_exception=False,
        set_status_on_exception=False,
    )
    with opened as current:
        try:
            yield current
        except BaseException as error:
            fail(current, type(error).__name__)
            raise


def fail(failed: Span, reason: str) -> None:
    """Mark a span as failed. `reason` is an error code or the name of an exception."""
    failed.set_status(Status(StatusCode.ERROR))
    failed.set_attribute("error.type", reason)


def traceparent() -> str | None:
    """Return the traceparent of the current span; None without one."""
    carrier: dict[str, str] = {}
    _w3c.inject(carrier)
    return carrier.get("traceparent")


def link_here() -> tuple[Link, ...]:
    """Return a link to the current span, for a span in another trace; empty without a span."""
    here = trace.get_current_span().get_span_context()
    return (Link(here),) if here.is_valid else ()


def _context(within: str | None) -> Context | None:
    return None if within is None else _w3c.extract({"traceparent": within})


def _is_enabled() -> bool:
    if _variable("OTEL_SDK_DISABLED").lower() == "true":
        return False
    exporter = _variable("OTEL_TRACES_EXPORTER")
    if exporter not in {"", "otlp", "none"}:
        raise ConfigurationError(f"OTEL_TRACES_EXPORTER: must be otlp or none, not {exporter}")
    endpoints = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    return exporter == "otlp" or (exporter == "" and any(map(_variable, endpoints)))


def _provider() -> "TracerProvider":
    """Create the SDK's provider. It is imported here, so that its import costs nothing while tracing is off."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    protocol = _variable("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or _variable("OTEL_EXPORTER_OTLP_PROTOCOL") or _HTTP
    if protocol != _HTTP:
        raise ConfigurationError(f"OTEL_EXPORTER_OTLP_PROTOCOL: must be {_HTTP}, not {protocol}")
    is_named = _variable("OTEL_SERVICE_NAME") or "service.name=" in _variable("OTEL_RESOURCE_ATTRIBUTES")
    attributes = {"service.version": __version__} | ({} if is_named else {"service.name": "fluxhook"})
    provider = TracerProvider(resource=Resource.create(attributes), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def _variable(name: str) -> str:
    """Return an environment variable; "" if it is not set. The specification treats both alike."""
    return os.environ.get(name, "").strip()
