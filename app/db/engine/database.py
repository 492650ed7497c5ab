"""Units of work: plain functions of a synchronous connection, each run in one transaction.

On PostgreSQL each unit has a transaction of its own, on asyncpg, and a few short ones run at once. On SQLite one writer
runs up to four waiting units in one transaction, each in a savepoint. The functions need not know which. Both run their
Python on the event loop, so a unit must be short: what takes long is written in batches, and stated with `long_work`.
Units that wait take turns by their owner, so that an application does not wait behind all requests of another one: see
`fair_queue`.

Writes that arrive in bursts use a batcher: one unit writes all waiting items, with as many statements as for one.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy import Connection, Dialect, text

from app.db.engine.batches import BOUNDS, Batcher, Bounds, Item, Result, Work
from app.db.engine.sqlite import Sqlite
from app.db.engine.timeouts import TIMEOUTS, Timeouts
from app.errors import Unavailable

if TYPE_CHECKING:
    from app.db.engine.postgres import Postgres

T = TypeVar("T")
P = ParamSpec("P")
_RETRY_S = 0.5
READ_ONLY = "the database is read-only: a standby, or set to read-only by its host because the disk is nearly full"
_CANNOT_WRITE = text("SELECT pg_is_in_recovery() OR current_setting('default_transaction_read_only')::boolean")


class Database(Protocol):
    """One of the two engines. Both raise `errors.Unavailable` if the database cannot serve a call now."""

    @property
    def dialect(self) -> Dialect: ...

    @property
    def is_busy(self) -> bool:
        """Whether units of work wait until others end."""
        ...

    async def write(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work(connection, *args, **kwargs)` in a transaction, and return its result.

        The transaction is durable when this returns.
        """
        ...

    def batcher(self, work: Work[Item, Result]) -> Batcher[Item, Result]:
        """Return a new batcher: `add` its items, and `work` writes them in batches. Call it on the event loop."""
        ...

    async def read(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work(connection, *args, **kwargs)` on a snapshot, and return its result. It must not write."""
        ...

    def on_jobs(self, listener: Callable[[], None], claimer: object | None = None) -> None:
        """Call `listener`, from any thread, when there may be new jobs: after a commit of this or another process.

        `claimer` claims jobs in the transactions of this process that enqueue them (`jobs.Claimer`).
        """
        ...

    def on_events(self, listener: Callable[[], None]) -> None:
        """Call `listener`, from any thread, when the feed may have new events, written by any process."""
        ...


@asynccontextmanager
async def open_database(
    url: str, bounds: Bounds = BOUNDS, *, direct_url: str | None = None, timeouts: Timeouts = TIMEOUTS
) -> AsyncGenerator[Database]:
    """Open `sqlite:///PATH` or `postgresql://...`, and close it at the end. Raises ConfigurationError for a wrong URL.

    `bounds` limits what may wait in each batcher. `direct_url` is the address of the PostgreSQL server itself, if `url`
    leads to a connection pooler. `timeouts` are limits of PostgreSQL.
    """
    engine = _engine(url, bounds, direct_url, timeouts)
    try:
        yield engine
    finally:
        await engine.close()


async def write_until_available(
    database: Database, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Write what exists only in this process: retry every half second until the database is available."""
    while True:
        try:
            return await database.write(work, *args, **kwargs)
        except Unavailable:
            await asyncio.sleep(_RETRY_S)


def is_read_only(connection: Connection) -> bool:
    """Whether this is a PostgreSQL that accepts no writes: a standby, or one that its host has made read-only."""
    return connection.dialect.name == "postgresql" and bool(connection.scalar(_CANNOT_WRITE))


def as_postgres(database: Database) -> "Postgres | None":
    """Return the engine of a PostgreSQL, for what only that has; None for SQLite."""
    if database.dialect.name != "postgresql":
        return None
    from app.db.engine.postgres import Postgres  # noqa: PLC0415 - see `_engine`

    return database if isinstance(database, Postgres) else None


def _engine(url: str, bounds: Bounds, direct_url: str | None, timeouts: Timeouts) -> "Sqlite | Postgres":
    if url.startswith("sqlite:"):
        return Sqlite(url, bounds)
    from app.db.engine.postgres import Postgres  # noqa: PLC0415 - asyncpg takes long to load, and SQLite does not need it

    return Postgres(url, bounds, direct_url, timeouts)
