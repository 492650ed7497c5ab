"""Units of work: plain functions of a synchronous connection, each one transaction.

On SQLite one writer thread takes all that waits, runs each in a savepoint and commits them together; on
PostgreSQL each is a transaction of its own on asyncpg. The functions cannot tell the difference.

What comes in bursts is written by `write_each`: one unit for all that waits, with as many statements as for one.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar

from sqlalchemy import Connection, Dialect, text

from app.db.engine.batches import BOUNDS, Bounds, Work
from app.db.engine.sqlite import Sqlite
from app.errors import Unavailable

if TYPE_CHECKING:
    from asyncio import Future

    from app.db.engine.postgres import Postgres

T = TypeVar("T")
Item = TypeVar("Item")
_AGAIN_S = 0.5
READ_ONLY = "the database is read-only: a standby, or its host keeps it from filling up"
_CANNOT_WRITE = text("SELECT pg_is_in_recovery() OR current_setting('default_transaction_read_only')::boolean")


class Database(Protocol):
    """One of the two engines. Both raise `errors.Unavailable` when the database cannot do its part now."""

    @property
    def dialect(self) -> Dialect: ...

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction that is durable when this returns."""
        ...

    def write_batched(self, work: Work[Item, T], item: Item, size: int = 0) -> "Future[T]":
        """Run `work` on this item together with all that came for it while the last such group was written.

        Durable when the future is done. An item whose work fails fails alone: the group is written without it. `size`
        is what the item weighs in bytes; past what can be held, `errors.Overloaded` is raised at once.
        """
        ...

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` on a snapshot; it must not write."""
        ...

    def on_signal(self, listener: Callable[[], None]) -> None:
        """Call `listener`, from whatever thread, when there may be work: after a commit here, or in any process."""
        ...

    def on_event(self, listener: Callable[[], None]) -> None:
        """Call `listener`, from whatever thread, when the feed may have new events, whichever process wrote them."""
        ...


@asynccontextmanager
async def open_database(url: str, bounds: Bounds = BOUNDS) -> AsyncGenerator[Database]:
    """Connect to `sqlite:///PATH` or `postgresql://...`, and let go at the end.

    `bounds` limit what may wait in `write_each`.
    """
    engine = _engine(url, bounds)
    try:
        yield engine
    finally:
        await engine.close()


async def write_until_available(database: Database, work: Callable[[Connection], T]) -> T:
    """`write` what would be lost with this process: while the database is away, wait for it."""
    while True:
        try:
            return await database.write(work)
        except Unavailable:
            await asyncio.sleep(_AGAIN_S)


def is_read_only(connection: Connection) -> bool:
    """Whether a PostgreSQL answers and takes nothing: a standby, or one that its host keeps from filling up."""
    return connection.dialect.name == "postgresql" and bool(connection.scalar(_CANNOT_WRITE))


def _engine(url: str, bounds: Bounds) -> "Sqlite | Postgres":
    if url.startswith("sqlite:"):
        return Sqlite(url, bounds)
    from app.db.engine.postgres import Postgres  # noqa: PLC0415 - asyncpg takes long to load, and SQLite needs none

    return Postgres(url, bounds)
