"""A disk that takes no more."""

import resource
import signal
from collections.abc import Generator
from contextlib import contextmanager

from app.db import Connection


@contextmanager
def full_disk(most: int) -> Generator[None]:
    """No file of this process grows past so many bytes meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing fails then, as it does on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def make_large(connection: Connection) -> None:
    """A table for `write_much`."""
    connection.exec_driver_sql("CREATE TABLE large (body BLOB)")


def write_much(connection: Connection) -> None:
    """8 MB: so much that SQLite writes some of it before the commit."""
    for _ in range(8):
        connection.exec_driver_sql("INSERT INTO large VALUES (zeroblob(1000000))")
