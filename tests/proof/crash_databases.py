"""Databases of crash runs: a migrated, empty database for each run, on either engine."""

import asyncio
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile
from typing import Protocol

from sqlalchemy import create_engine

from app.db.engine.database import open_database
from app.db.engine.postgres import Postgres as SharedEngine
from app.db.engine.sqlite import Sqlite
from app.db.migrations import migrate
from tests.postgres import Postgres, start_postgres

Engine = Sqlite | SharedEngine


class Databases(Protocol):
    """Plain data, because it is sent to other processes."""

    async def fresh(self, folder: Path) -> str:
        """Return the address of a migrated, empty database for the run that owns this folder."""


@dataclass(frozen=True, slots=True)
class Files:
    """SQLite: a copy of the template for each run."""

    template: Path

    async def fresh(self, folder: Path) -> str:
        copyfile(self.template, folder / "fluxhook.db")
        return f"sqlite:///{folder / 'fluxhook.db'}"


@dataclass(frozen=True, slots=True)
class OnServer:
    """PostgreSQL: a database for each process, emptied for each run because creating one is slow."""

    dsn: str
    template: str

    async def fresh(self, folder: Path) -> str:  # noqa: ARG002 - only files need it
        server, name = Postgres(self.dsn), f"{self.template}_{os.getpid()}"
        if name in _made:
            await server.empty(name)
        else:
            await server.drop(name)
            await server.create(name, self.template)
            await server.use_clock(name)
            _made.add(name)
        return server.address(name)


_made: set[str] = set()  # databases created by this process


def files(folder: Path) -> Files:
    path = folder / "template.db"
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        migrate.upgrade(connection)
    engine.dispose()
    return Files(path)


@contextmanager
def server() -> Generator[OnServer | str]:
    """Yield databases on a temporary server, or the reason why there is none."""
    with start_postgres() as started:
        if isinstance(started, str):
            yield started
            return
        template = f"crash_{os.getpid()}"
        asyncio.run(_migrated(started, template))
        yield OnServer(started.dsn, template)


def open_engine(url: str) -> Engine:
    return Sqlite(url) if url.startswith("sqlite:") else SharedEngine(url)


async def _migrated(server: Postgres, name: str) -> None:
    async with open_database(await server.create(name)) as database:
        await database.write(migrate.upgrade)
