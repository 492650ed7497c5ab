"""Units of work that may take long.

SQLite writes them in a thread, so that the event loop goes on meanwhile. PostgreSQL runs them beside the short ones,
which otherwise wait for each other.
"""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

_takes_long: ContextVar[bool] = ContextVar("takes_long", default=False)


@contextmanager
def long_work(*, is_long: bool = True) -> Generator[None]:
    """State that the units of work of the current task take long, or that they do not, for the block.

    A task that is started in the block begins with the same.
    """
    token = _takes_long.set(is_long)
    try:
        yield
    finally:
        _takes_long.reset(token)


def takes_long() -> bool:
    return _takes_long.get()
