"""Database helpers for all tests: the engines, statements, a unit that waits, and a database without batches."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

from sqlalchemy import Engine, event
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.util import await_only
from sqlalchemy.util.concurrency import in_greenlet

from app.db import Connection
from app.db.engine.batches import BOUNDS, Batcher, Item, Result, Work
from app.db.engine.connector import Connector
from app.db.engine.database import Database
from app.db.engine.postgres import Postgres
from app.db.engine.postgres_url import make_engine
from app.db.engine.sqlite import Sqlite

T = TypeVar("T")


def engines(database: Database) -> tuple[Engine, ...]:
    """Return the engines of SQLAlchemy that a database uses, for listeners to their events."""
    assert isinstance(database, Sqlite | Postgres)
    return database.engines


@contextmanager
def listening_for(database: Database, name: str, listener: Callable[..., object]) -> Generator[None]:
    """Call the listener for each event of this name of the engines, for the duration of the block."""
    for engine in engines(database):
        event.listen(engine, name, listener)
    try:
        yield
    finally:
        for engine in engines(database):
            event.remove(engine, name, listener)


@contextmanager
def statements(database: Database) -> Generator[list[str]]:
    """Collect the SQL of all statements that run during the block, on any connection."""
    collected: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        collected.append(statement)

    with listening_for(database, "before_cursor_execute", note):
        yield collected


@asynccontextmanager
async def connection_to(postgres_url: str) -> AsyncGenerator[AsyncConnection]:
    """Open another connection to a PostgreSQL database; the test ends its transactions itself."""
    engine = make_engine(postgres_url, Connector())
    try:
        async with engine.connect() as connection:
            yield connection
    finally:
        await engine.dispose()


class Gate:
    """Blocks the unit of work that calls `hold` until the test opens the gate."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.reached = asyncio.Event()
        self._opened, self._opened_to_threads = asyncio.Event(), threading.Event()

    def hold(self, _connection: Connection) -> None:
        self._loop.call_soon_threadsafe(self.reached.set)
        if in_greenlet():
            await_only(self._opened.wait())
        else:  # a read of SQLite
            self._opened_to_threads.wait(60)

    def open(self) -> None:
        self._opened.set()
        self._opened_to_threads.set()


class OneByOne:
    """A database whose batchers write each item in a unit of its own, with `write`."""

    is_busy = False

    async def write(self, work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        raise NotImplementedError

    def batcher(self, work: Work[Item, Result]) -> Batcher[Item, Result]:
        return _Single(work, self)


class _Single(Batcher[Item, Result]):
    def __init__(self, work: Work[Item, Result], database: OneByOne) -> None:
        super().__init__(work, BOUNDS)
        self._database = database

    def add(self, item: Item, size: int = 0) -> "asyncio.Future[Result]":  # noqa: ARG002 - there are no limits
        def unit(connection: Connection) -> Result:
            return self._work(connection, [item])[0]

        unit.__module__ = self._work.__module__  # names the step that the unit belongs to
        return asyncio.ensure_future(self._database.write(unit))

    def _schedule(self) -> None:
        raise NotImplementedError
