"""Writes that may take long. SQLite makes them in a thread, so that the event loop goes on meanwhile."""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

_takes_long: ContextVar[bool] = ContextVar("takes_long", default=False)


@contextmanager
def long_writes() -> Generator[None]:
    """State that the writes of the current task take long, for the block."""
    token = _takes_long.set(True)
    try:
        yield
    finally:
        _takes_long.reset(token)


def takes_long() -> bool:
    return _takes_long.get()
