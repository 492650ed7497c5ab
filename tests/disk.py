"""A full disk, and the files that a process has open."""

import resource
import signal
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from app.db import Connection


@contextmanager
def full_disk(max_bytes: int) -> Generator[None]:
    """Limit the size of files that this process writes, for the block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writes beyond the limit then fail as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def make_large(connection: Connection) -> None:
    """Create the table for `write_much`."""
    connection.exec_driver_sql("CREATE TABLE large (body BLOB)")


def write_much(connection: Connection) -> None:
    """Write 8 MB, of which SQLite writes some to disk before the commit."""
    for _ in range(8):
        connection.exec_driver_sql("INSERT INTO large VALUES (zeroblob(1000000))")


def open_files(pid: int | str, folder: Path) -> list[int]:
    """Return the sizes in bytes of the files below `folder` that a process has open, also of those without a name."""
    sizes = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed in the meantime
            if str(descriptor.readlink()).startswith(f"{folder}/"):
                sizes.append(descriptor.stat().st_size)
    return sizes
