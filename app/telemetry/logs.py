"""JSON lines on standard error: one for each request and each job attempt, written at its end.

A line never holds a secret, a signature, a prompt, image bytes or an address with a token in it.
"""

import asyncio
import json
import logging
import sys
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, TextIO

import structlog
from opentelemetry import trace

from app import clock

get: Any = structlog.get_logger
_facts: ContextVar[dict[str, Any] | None] = ContextVar("facts", default=None)


class collecting:  # noqa: N801 - used as a function, and a generator's context costs a callback two microseconds
    """Collect what is noted about one request or job attempt, for the line that is written at its end."""

    __slots__ = ("_into", "_token")

    def __init__(self, into: dict[str, Any] | None = None) -> None:
        self._into = {} if into is None else into

    def __enter__(self) -> dict[str, Any]:
        self._token = _facts.set(self._into)
        return self._into

    def __exit__(self, *_: object) -> None:
        _facts.reset(self._token)


def note(**facts: Any) -> None:
    """Add to the line of the request or job attempt that this runs in; what was noted last counts."""
    known = _facts.get()
    if known is not None:
        known.update(facts)


def emit(event: str, facts: dict[str, Any]) -> None:
    """Write one line of level info, as `get().info` would, for whoever writes thousands a second on the event loop.

    What is emitted in one round of the loop is written together, at its end. Where structlog is set up otherwise, as a
    test may do, the line takes its way through it.
    """
    if structlog.get_config()["processors"] is not _PROCESSORS or _render not in _PROCESSORS:
        get().info(event, **facts)
        return
    if not logging.getLogger().isEnabledFor(logging.INFO):
        return
    facts["event"] = event
    _emitted.append(_add_trace(facts))
    if len(_emitted) == 1:
        asyncio.get_running_loop().call_soon(_write_emitted)


def _write_emitted() -> None:
    end = f', "level": "info", "timestamp": "{_timestamp()}"}}'
    emitted = _emitted.copy()
    _emitted.clear()  # first: whatever becomes of these, the next ones are written
    _write("\n".join([_encode(line)[:-1] + end for line in emitted]))


def configure(level: str = "info", stream: TextIO | None = None) -> None:
    """Send every line, ours and the libraries', to this stream as JSON."""
    global _write  # noqa: PLW0603 - like the log, one for the process
    file = stream or sys.stderr
    lines = _Lines(file)
    _write = lines.msg
    _PROCESSORS[:] = [_render]
    structlog.configure(
        processors=_PROCESSORS,
        logger_factory=lambda *_: lines,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(file)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_log_level],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _render_foreign],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # httpx writes whole addresses, and a result's link carries its own signature.
    for chatty in ("httpx", "httpcore", "uvicorn.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


class _Lines(structlog.WriteLogger):
    """Writes whole lines. A log that nobody takes any more, behind a closed pipe or on a full disk, stops nobody."""

    def msg(self, message: str) -> None:
        with suppress(OSError, ValueError):
            super().msg(message)

    log = debug = info = warn = warning = fatal = failure = err = error = critical = exception = msg


def _render(logger: Any, level: str, line: MutableMapping[str, Any]) -> str:
    """One processor in place of a chain of them: a line of JSON, with its time, level, trace and exception."""
    if "exc_info" in line:
        line = structlog.processors.format_exc_info(logger, level, dict(line))
    return _encode({**_add_trace(line), "level": level, "timestamp": _timestamp()})


def _render_foreign(logger: Any, _method: str, line: MutableMapping[str, Any]) -> str:
    return _render(logger, line.pop("level"), line)


def _add_trace(line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Name the trace and span that a line was written in, where there is one."""
    here = trace.get_current_span().get_span_context()
    if here.is_valid:
        line["trace_id"] = trace.format_trace_id(here.trace_id)
        line["span_id"] = trace.format_span_id(here.span_id)
    return line


def _timestamp() -> str:
    return clock.utc_now().isoformat(timespec="microseconds").replace("+00:00", "Z")


_encode = json.JSONEncoder(default=repr).encode
_PROCESSORS: list[Any] = []
_emitted: list[MutableMapping[str, Any]] = []  # and not written yet
_write: Callable[[str], Any] = print
