"""One trace for each task, from the request that submits it to its last job; off unless OTEL_ variables turn it on.

A span names what was done and to which task. It never holds a prompt, a secret or an address, nor what an exception
says: those may have a token in them. A context travels as W3C `traceparent`, in a header and in the task's row.
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

_LAST_WORDS_S = 1  # for spans that were not sent yet when the process ends: a collector that is away holds up nothing
_HTTP = "http/protobuf"

_w3c = TraceContextTextMapPropagator()
_tracer: Tracer | None = None  # None: tracing is off


@contextmanager
def sending() -> Generator[None]:
    """Send spans while this lasts, if the environment asks for it. Raises ConfigurationError for what it cannot have.

    The standard variables count: OTEL_EXPORTER_OTLP_ENDPOINT, its form for traces, or OTEL_TRACES_EXPORTER=otlp turn
    it on, OTEL_TRACES_EXPORTER=none and OTEL_SDK_DISABLED=true off; the SDK reads the others.
    """
    global _tracer  # noqa: PLW0603 - like the log, one for the process
    if not _is_wanted():
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
        ending.join(_LAST_WORDS_S)


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
    """A span around a block: inside the current one, or inside the one that the traceparent `within` names.

    Attributes that are None are left out. Costs next to nothing while tracing is off.
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
    """Mark a span as failed; `reason` is a code or the name of an exception."""
    failed.set_status(Status(StatusCode.ERROR))
    failed.set_attribute("error.type", reason)


def traceparent() -> str | None:
    """The current span as W3C writes it; None outside of any."""
    carrier: dict[str, str] = {}
    _w3c.inject(carrier)
    return carrier.get("traceparent")


def link_here() -> tuple[Link, ...]:
    """A link to the current span, for one that begins in another trace."""
    here = trace.get_current_span().get_span_context()
    return (Link(here),) if here.is_valid else ()


def _context(within: str | None) -> Context | None:
    return None if within is None else _w3c.extract({"traceparent": within})


def _is_wanted() -> bool:
    if _given("OTEL_SDK_DISABLED").lower() == "true":
        return False
    exporter = _given("OTEL_TRACES_EXPORTER")
    if exporter not in {"", "otlp", "none"}:
        raise ConfigurationError(f"OTEL_TRACES_EXPORTER: can be otlp or none, not {exporter}")
    places = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    return exporter == "otlp" or (exporter == "" and any(map(_given, places)))


def _provider() -> "TracerProvider":
    """The SDK's, imported now: who does not trace does not pay for it."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    protocol = _given("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or _given("OTEL_EXPORTER_OTLP_PROTOCOL") or _HTTP
    if protocol != _HTTP:
        raise ConfigurationError(f"OTEL_EXPORTER_OTLP_PROTOCOL: only {_HTTP} is spoken, not {protocol}")
    named = _given("OTEL_SERVICE_NAME") or "service.name=" in _given("OTEL_RESOURCE_ATTRIBUTES")
    attributes = {"service.version": __version__} | ({} if named else {"service.name": "fluxhook"})
    provider = TracerProvider(resource=Resource.create(attributes), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def _given(name: str) -> str:
    """A variable; one that is empty counts as not set, as the specification has it."""
    return os.environ.get(name, "").strip()
