"""The service under test, started by its command, and its database."""

import asyncio
import sqlite3
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import asyncpg  # type: ignore[import-untyped]

from app.db import Connection
from app.db.engine.database import Database, open_database
from app.security.keyring import KeyRing
from benchmarks import processes
from benchmarks.processes import Process
from benchmarks.seed import Callback, seed
from benchmarks.stored import unstored

T = TypeVar("T")

ADMIN_KEY = "an-admin-key-for-benchmarks-only"
_UNUSED = "http://127.0.0.1:9"  # the provider is never called


@dataclass
class Ours:
    """One service on one database; `url` is the address of the database."""

    name: str
    folder: Path
    url: str
    signing_key_id: str = field(repr=False)
    port: int = field(default_factory=processes.free_port)
    env: Mapping[str, str] = field(default_factory=dict)
    arguments: Sequence[str] = ("serve", "--no-worker")
    process: Process | None = None

    @property
    def keys(self) -> KeyRing:
        return KeyRing((self.signing_key_id,))

    @property
    def pid(self) -> int:
        return self.process.pid if self.process is not None else 0

    def start(self) -> Process:
        """Start the service without waiting until it answers."""
        self.process = processes.launch(
            ["app", *self.arguments], self.port, self.folder / "service.log", {**self._settings(), **self.env}
        )
        return self.process

    def await_answer(self) -> None:
        if self.process is not None:
            self.process.await_answer()

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()

    def stop(self) -> None:
        if self.process is not None:
            processes.stop(self.process.process)

    @contextmanager
    def running(self) -> Generator["Ours"]:
        self.start()
        try:
            yield self
        finally:
            self.stop()

    def seed(self, count: int, *, moderated: bool = False) -> list[Callback]:
        """Add this many tasks that wait for their callbacks, and flush the database before the measurement."""
        callbacks = self._with_database(lambda database: seed(database, self.keys, count, moderated=moderated))
        self._flush()
        return callbacks

    def unstored(self, acknowledged: Sequence[Callback]) -> int:
        return self._with_database(lambda database: unstored(database, acknowledged))

    def count(self, query: Callable[[Connection], int]) -> int:
        return self._with_database(lambda database: database.read(query))

    def _with_database(self, work: Callable[[Database], Coroutine[Any, Any, T]]) -> T:
        async def opened() -> T:
            async with open_database(self.url) as database:
                return await work(database)

        return asyncio.run(opened())

    def _flush(self) -> None:
        """Checkpoint, and on PostgreSQL gather statistics, so that neither happens during the measurement."""
        if self.url.startswith("sqlite:"):
            connection = sqlite3.connect(self.url.removeprefix("sqlite:///"), timeout=60)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.close()
        else:
            asyncio.run(execute(self.url, "ANALYZE", "CHECKPOINT"))

    def _settings(self) -> dict[str, str]:
        return {
            "FLUXHOOK_DATABASE_URL": self.url,
            "FLUXHOOK_DATA_DIR": str(self.folder / "data"),
            "FLUXHOOK_HOST": "127.0.0.1",
            "FLUXHOOK_PORT": str(self.port),
            "FLUXHOOK_PUBLIC_URL": f"http://127.0.0.1:{self.port}",
            "FLUXHOOK_BFL_BASE_URL": _UNUSED,
            "FLUXHOOK_BFL_API_KEY": "a-provider-key",
            "FLUXHOOK_ADMIN_KEY": ADMIN_KEY,
            "FLUXHOOK_SECRET_KEYS": self.signing_key_id,
        }


async def execute(url: str, *statements: str) -> None:
    """Run these statements on PostgreSQL, each in its own transaction."""
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()
