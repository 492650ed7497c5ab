"""The lock that keeps a second process away from a SQLite file. The system releases it however the process ends."""

import fcntl
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from app.db.engine.sqlite import file_of
from app.errors import ConfigurationError


@contextmanager
def process_lock(url: str) -> Generator[None]:
    """Lock `FILE.lock` beside the SQLite file at `url`; on PostgreSQL, which serves many processes, do nothing.

    Needed because a start treats running jobs as abandoned, and because commit notifications do not leave the process.
    Raises ConfigurationError if another process has the lock, or the file cannot be used.
    """
    if not url.startswith("sqlite:"):
        yield
        return
    database = Path(file_of(url))
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        lock = database.with_name(f"{database.name}.lock").open("a")
    except OSError as error:
        raise ConfigurationError(
            f"FLUXHOOK_DATABASE_URL: {database} cannot be used: {error.strerror}. If it is not set, the file is in "
            "FLUXHOOK_DATA_DIR"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                f"another Fluxhook process uses {database}, and SQLite serves one process: stop that process, "
                "or use PostgreSQL for several"
            ) from None
        yield
