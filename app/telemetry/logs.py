"""JSON lines on standard error. Each request and each job attempt writes one line when it ends.

A line never holds a secret, a signature, a prompt, image bytes or an address that contains a token. So it never holds
the message of an exception either.
"""

import asyncio
import json
import logging
import sys
import warnings
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, TextIO

import structlog
from opentelemetry import trace

from app import clock
from app.telemetry import exceptions

_facts: ContextVar[dict[str, Any] | None] = ContextVar("facts", default=None)


def get(name: str) -> Any:
    """Return the structlog logger whose lines hold `name` as their member `logger`."""
    return structlog.get_logger(name)


class collecting:  # noqa: N801 - used as a function; a generator-based context manager costs 2 µs more per callback
    """Collect the facts that are noted inside the block, for the line of one request or job attempt."""

    __slots__ = ("_into", "_token")

    def __init__(self, into: dict[str, Any] | None = None) -> None:
        self._into = {} if into is None else into

    def __enter__(self) -> dict[str, Any]:
        self._token = _facts.set(self._into)
        return self._into

    def __exit__(self, *_: object) -> None:
        _facts.reset(self._token)


def note(**facts: Any) -> None:
    """Add facts to the line of the current request or job attempt. A later value replaces an earlier one."""
    collected = _facts.get()
    if collected is not None:
        collected.update(facts)


def emit(event: str, facts: dict[str, Any], *, logger: str) -> None:
    """Write a line of level info, as `get(logger).info` does, but at thousands of lines per second.

    Lines that are emitted in one iteration of the event loop are written together at its end. `facts` is changed. If
    structlog is configured differently, as in a test, the line goes through structlog.
    """
    if structlog.get_config()["processors"] is not _PROCESSORS or _render not in _PROCESSORS:
        get(logger).info(event, **facts)
        return
    if not logging.getLogger().isEnabledFor(logging.INFO):
        return
    facts["event"] = event
    facts["logger"] = logger
    _emitted.append(_add_trace(facts))
    if len(_emitted) == 1:
        asyncio.get_running_loop().call_soon(_write_emitted)


def _write_emitted() -> None:
    end = f', "level": "info", "timestamp": "{_timestamp()}"}}'
    emitted = _emitted.copy()
    _emitted.clear()  # before the write: if it fails, later lines are still written
    _write("\n".join([_encode(line)[:-1] + end for line in emitted]))


def configure(level: str = "info", stream: TextIO | None = None) -> None:
    """Write every line, including those of libraries, to `stream` as JSON; by default to standard error."""
    global _write  # noqa: PLW0603 - one for each process, like the log
    file = stream or sys.stderr
    _write = _Lines(file).msg
    _PROCESSORS[:] = [_render]
    structlog.configure(
        processors=_PROCESSORS,
        logger_factory=lambda *name: _Lines(file, *name),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(file)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_log_level, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _render_foreign],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    warnings.showwarning = _log_warning
    sys.unraisablehook = _log_unraisable
    # The HTTP libraries log complete URLs, and the link to a result contains its signature. Alembic logs each step;
    # `migrate` logs one line for all of them.
    for library in ("httpx", "httpcore", "uvicorn.access", "alembic"):
        logging.getLogger(library).setLevel(logging.WARNING)


def _log_warning(
    message: Warning | str,  # noqa: ARG001 - not shown, see below
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,  # noqa: ARG001
    line: str | None = None,  # noqa: ARG001
) -> None:
    """Log a warning of a library. Its text may hold values, as the message of an exception may."""
    get("warnings").warning("library_warning", category=category.__name__, at=f"{_short(filename)}:{lineno}")


def _log_unraisable(unraisable: Any) -> None:
    """Log an exception that no caller can receive, as one in a finalizer."""
    get("warnings").error("unraisable_exception", exc_info=unraisable.exc_value)


def _short(filename: str) -> str:
    """Return the path of a module below the folder of installed packages."""
    return filename.replace("\\", "/").rpartition("site-packages/")[2]


class _Lines(structlog.WriteLogger):
    """Write complete lines. Errors are ignored: a closed pipe or a full disk must not stop the service."""

    def __init__(self, file: TextIO, name: str = "") -> None:
        super().__init__(file)
        self.name = name

    def msg(self, message: str) -> None:
        with suppress(OSError, ValueError):
            super().msg(message)

    log = debug = info = warn = warning = fatal = failure = err = error = critical = exception = msg


def _render(logger: Any, level: str, line: MutableMapping[str, Any]) -> str:
    """Render a line as JSON with its logger, level, time, trace and exception; one processor is faster than a chain."""
    if "exc_info" in line:
        line = dict(line)
        error = _exception_of(line.pop("exc_info"))
        if error is not None:
            line["exception"] = exceptions.describe(error)
    return _encode({**_add_trace(line), "logger": logger.name, "level": level, "timestamp": _timestamp()})


def _exception_of(exc_info: Any) -> BaseException | None:
    """Return the exception of an `exc_info` in any of the forms that structlog and logging accept."""
    if isinstance(exc_info, tuple):
        exc_info = exc_info[1]
    if isinstance(exc_info, BaseException):
        return exc_info
    return sys.exc_info()[1] if exc_info else None


def _render_foreign(_logger: None, _method: str, line: MutableMapping[str, Any]) -> str:
    logger = line.pop("logger")
    if logger == "asyncio":  # the further lines are the `repr` of a task, with the message of its exception
        line["event"] = str(line["event"]).partition("\n")[0]
    line.pop("stack_info", None)
    return _render(logging.getLogger(logger), line.pop("level"), line)


def _add_trace(line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add the ids of the current trace and span, if there is one."""
    here = trace.get_current_span().get_span_context()
    if here.is_valid:
        line["trace_id"] = trace.format_trace_id(here.trace_id)
        line["span_id"] = trace.format_span_id(here.span_id)
    return line


def _timestamp() -> str:
    return clock.utc_now().isoformat(timespec="microseconds").replace("+00:00", "Z")


def _shown(value: object) -> str:
    return type(value).__name__ if isinstance(value, BaseException) else repr(value)


_encode = json.JSONEncoder(default=_shown).encode
_PROCESSORS: list[Any] = []
_emitted: list[MutableMapping[str, Any]] = []  # not yet written
_write: Callable[[str], Any] = print
