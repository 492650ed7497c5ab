"""JSON lines on standard error: one for each request and each job attempt, written at its end.

A line never holds a secret, a signature, a prompt, image bytes or an address with a token in it.
"""

import logging
import sys
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TextIO

import structlog
from opentelemetry import trace

get: Any = structlog.get_logger
_facts: ContextVar[dict[str, Any] | None] = ContextVar("facts", default=None)


@contextmanager
def collecting() -> Generator[dict[str, Any]]:
    """Collect what is noted about one request or job attempt, for the line that is written at its end."""
    facts: dict[str, Any] = {}
    token = _facts.set(facts)
    try:
        yield facts
    finally:
        _facts.reset(token)


def note(**facts: Any) -> None:
    """Add to the line of the request or job attempt that this runs in; what was noted last counts."""
    known = _facts.get()
    if known is not None:
        known.update(facts)


def configure(level: str = "info", stream: TextIO | None = None) -> None:
    """Send every line, ours and the libraries', through one JSON renderer."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_trace,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # httpx writes whole addresses, and a result's link carries its own signature.
    for chatty in ("httpx", "httpcore", "uvicorn.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _add_trace(_logger: Any, _method: str, line: dict[str, Any]) -> dict[str, Any]:
    """Name the trace and span that a line was written in, where there is one."""
    here = trace.get_current_span().get_span_context()
    if here.is_valid:
        line |= {"trace_id": trace.format_trace_id(here.trace_id), "span_id": trace.format_span_id(here.span_id)}
    return line
