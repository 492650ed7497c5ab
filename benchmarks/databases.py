"""Databases to measure on: a file on a real disk, or a durable PostgreSQL server, temporary or given by address."""

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
from benchmarks import postgres_server, processes
from benchmarks.ours import execute

_MEMORY = frozenset({"tmpfs", "ramfs"})
_DISKS = (Path("/var/tmp"), Path.cwd())  # noqa: S108 - parents of a temporary folder


@dataclass(frozen=True, slots=True)
class Postgres:
    """A server, given by the address of one of its existing databases."""

    dsn: str

    @contextmanager
    def database(self) -> Generator[str]:
        """Yield the address of a new, empty database; drop the database after the block."""
        name = f"bench_{ids.new_worker_id()}"
        asyncio.run(execute(self.dsn, f'CREATE DATABASE "{name}" TEMPLATE "template0"'))
        try:
            yield urlunsplit(urlsplit(self.dsn)._replace(path=f"/{name}"))
        finally:
            asyncio.run(execute(self.dsn, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))


async def server_process(url: str) -> int | None:
    """Return the id of the server's main process; None if the server runs on another machine."""
    connection = await asyncpg.connect(url)
    try:
        session: int = await connection.fetchval("SELECT pg_backend_pid()")
        return processes.parent_of(session)
    except OSError:
        return None
    finally:
        await connection.close()


@contextmanager
def folder() -> Generator[Path]:
    """Yield a temporary folder on a disk if there is one: in memory a flush would cost nothing."""
    places = [Path(tempfile.gettempdir()), *_DISKS]
    parent = next((place for place in places if file_system(place) not in _MEMORY), places[0])
    with tempfile.TemporaryDirectory(prefix="fluxhook-bench-", dir=parent) as path:
        yield Path(path)


def file_system(path: Path) -> str:
    """Return the kernel's name for the type of the file system that holds this path."""
    mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    containing = [(point, kind) for point, kind in mounts if path.resolve().is_relative_to(point)]
    return max(containing, key=lambda mount: len(mount[0]))[1] if containing else "unknown"


@contextmanager
def postgres(dsn: str | None) -> Generator[Postgres | str]:
    """Yield the server of `dsn`, else a new durable server, else the reason why none can be started.

    Raises ConfigurationError if the server of `dsn` does not answer.
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
