"""One process on a SQLite file: it holds a lock beside the file, which the system takes back however it ends."""

import fcntl
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from app.db.engine.sqlite import file_of
from app.errors import ConfigurationError


@contextmanager
def process_lock(url: str) -> Generator[None]:
    """Keep every other service and worker off this database; on PostgreSQL, which is made for many, do nothing.

    A start takes what was in hand for abandoned, and news of a commit stays in its process. Raises
    ConfigurationError when another process is there.
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
            f"FLUXHOOK_DATABASE_URL: {database} cannot be used: {error.strerror}. Without it the file is in "
            "FLUXHOOK_DATA_DIR"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                f"another Fluxhook runs on {database}, and SQLite serves one process: end that one, "
                "or use PostgreSQL for several"
            ) from None
        yield
