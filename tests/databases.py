"""What tests of any part need of a database: its engines, a unit that waits, a stand-in that writes alone."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

from sqlalchemy import Engine, event
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.util import await_only

from app.db import Connection
from app.db.engine.batches import Work
from app.db.engine.database import Database
from app.db.engine.postgres import Postgres
from app.db.engine.postgres_url import make_engine
from app.db.engine.sqlite import Sqlite

Item = TypeVar("Item")
T = TypeVar("T")


def engines(database: Database) -> tuple[Engine, ...]:
    """SQLAlchemy's engines behind a database, for listeners to their events."""
    assert isinstance(database, Sqlite | Postgres)
    return database.engines


@contextmanager
def listening_for(database: Database, name: str, listener: Callable[..., object]) -> Generator[None]:
    """Within it, the listener hears each event of this name of the database's engines."""
    for engine in engines(database):
        event.listen(engine, name, listener)
    try:
        yield
    finally:
        for engine in engines(database):
            event.remove(engine, name, listener)


@contextmanager
def statements(database: Database) -> Generator[list[str]]:
    """Every statement that is run while this lasts, on whichever connection."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    with listening_for(database, "before_cursor_execute", note):
        yield seen


@asynccontextmanager
async def connection_to(postgres_url: str) -> AsyncGenerator[AsyncConnection]:
    """A connection of somebody else to a PostgreSQL database, whose transactions the test ends itself."""
    engine = make_engine(postgres_url)
    try:
        async with engine.connect() as connection:
            yield connection
    finally:
        await engine.dispose()


class Gate:
    """Holds the unit of work that comes to it until the test opens it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.reached = asyncio.Event()
        self._opened, self._opened_to_threads = asyncio.Event(), threading.Event()

    def hold(self, connection: Connection) -> None:
        self._loop.call_soon_threadsafe(self.reached.set)
        if connection.dialect.name == "postgresql":  # whose units run on the event loop
            await_only(self._opened.wait())
        else:
            self._opened_to_threads.wait(60)

    def open(self) -> None:
        self._opened.set()
        self._opened_to_threads.set()


class OneByOne:
    """What would be written in groups is written alone, by this database's own `write`."""

    async def write(self, work: Callable[[Connection], Any]) -> Any:
        raise NotImplementedError

    def write_batched(self, work: Work[Item, T], item: Item, size: int = 0) -> "asyncio.Future[T]":  # noqa: ARG002
        def alone(connection: Connection) -> T:
            return work(connection, [item])[0]

        alone.__module__ = work.__module__  # whose unit of work it is
        return asyncio.ensure_future(self.write(alone))
