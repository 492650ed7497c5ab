"""Databases to measure on: a file on a disk that is one, or a durable PostgreSQL of our own or somebody else's."""

import asyncio
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg  # type: ignore[import-untyped]

from app import ids
from app.errors import ConfigurationError
from benchmarks import postgres_server
from benchmarks.ours import execute

_MEMORY = frozenset({"tmpfs", "ramfs"})
_DISKS = (Path("/var/tmp"), Path.cwd())  # noqa: S108 - where a temporary folder may be instead


@dataclass(frozen=True, slots=True)
class Postgres:
    """A server by the address of a database of its own that is there already."""

    dsn: str

    @contextmanager
    def database(self) -> Generator[str]:
        """The address of an empty database, dropped with the block."""
        name = f"bench_{ids.new_worker_id()}"
        asyncio.run(execute(self.dsn, f'CREATE DATABASE "{name}" TEMPLATE "template0"'))
        try:
            yield urlunsplit(urlsplit(self.dsn)._replace(path=f"/{name}"))
        finally:
            asyncio.run(execute(self.dsn, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))


@contextmanager
def folder() -> Generator[Path]:
    """A temporary folder on a disk: where that of the system is memory, a flush would cost nothing."""
    places = [Path(tempfile.gettempdir()), *_DISKS]
    place = next((each for each in places if file_system(each) not in _MEMORY), places[0])
    with tempfile.TemporaryDirectory(prefix="fluxhook-bench-", dir=place) as made:
        yield Path(made)


def file_system(path: Path) -> str:
    """The kind of file system that a path lies on, as the kernel calls it."""
    mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    over = [(point, kind) for point, kind in mounts if path.resolve().is_relative_to(point)]
    return max(over, key=lambda mount: len(mount[0]))[1] if over else "unknown"


@contextmanager
def postgres(dsn: str | None) -> Generator[Postgres | str]:
    """The server of `dsn`, else a durable one of our own, else why there is none.

    Raises ConfigurationError where the given one does not answer.
    """
    if dsn is not None:
        try:
            asyncio.run(execute(dsn, "SELECT 1"))
        except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise ConfigurationError(f"--postgres: {type(error).__name__}: {error}") from None
        yield Postgres(dsn)
        return
    with postgres_server.running(durable=True) as server:
        yield server if isinstance(server, str) else Postgres(server.dsn)
