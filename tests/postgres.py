"""A PostgreSQL server for the tests, and a database of its own for each of them.

It must not decide what a test does without one: it gives the reason, and the caller skips or fails.
"""

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit, urlunsplit

import asyncpg  # type: ignore[import-untyped]
from sqlalchemy import Connection, event

from app.db.engine.database import Database
from app.db.engine.postgres import Postgres as Engine
from benchmarks.postgres_server import Server, running

# Small tables are emptied ten times sooner by DELETE than by TRUNCATE, and that sooner than a database is made.
_EMPTY = """
DO $$
DECLARE
    each text;
BEGIN
    PERFORM pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend';
    FOR each IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version' LOOP
        EXECUTE format('DELETE FROM %I', each);
    END LOOP;
END $$
"""


# A database on which `now()` is what the session says: so that PgQueuer, too, keeps a test's time. Its comparisons
# are strict, hence the microsecond.
_FROZEN_NOW = """
CREATE SCHEMA frozen;
CREATE FUNCTION frozen.now() RETURNS timestamptz STABLE LANGUAGE sql AS $$
    SELECT coalesce(nullif(current_setting('frozen.now', true), '')::timestamptz + '1 microsecond', pg_catalog.now())
$$;
"""


def set_time(connection: Connection, now: datetime) -> None:
    """Have the rest of this transaction see this time, where the database has a clock of its own."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SELECT set_config('frozen.now', $1, true)", (now.isoformat(),))


def keep_time(database: Database, now: Callable[[], datetime]) -> None:
    """Have every transaction of this database see the time of a test's clock."""
    if isinstance(database, Engine):
        (engine,) = database.engines
        event.listen(engine, "begin", lambda connection: set_time(connection, now()))


@dataclass(frozen=True)
class Postgres:
    """A running server, by the address of its maintenance database."""

    dsn: str
    process: Server | None = None  # None: somebody else's, which is not ours to kill

    def address(self, database: str) -> str:
        """The address of another database of this server, as asyncpg and SQLAlchemy read it."""
        return urlunsplit(urlsplit(self.dsn)._replace(path=f"/{database}"))

    async def create(self, database: str, template: str = "template0") -> str:
        """Makes a database and gives its address; nobody may be connected to the template meanwhile."""
        await _execute(self.dsn, f'CREATE DATABASE "{database}" TEMPLATE "{template}"')
        return self.address(database)

    async def use_clock(self, database: str) -> None:
        """Lets `set_time` say what time it is in this database."""
        await _execute(self.address(database), _FROZEN_NOW)
        await _execute(self.dsn, f'ALTER DATABASE "{database}" SET search_path = frozen, pg_catalog, public')

    async def empty(self, database: str) -> None:
        """Takes every row out of a migrated database, and ends what still holds a connection to it."""
        await _execute(self.address(database), _EMPTY)

    async def drop(self, database: str) -> None:
        """Drops a database, and whatever still holds a connection to it."""
        await _execute(self.dsn, f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')


@contextmanager
def start_postgres(*, durable: bool = False) -> Generator[Postgres | str]:
    """The server of TEST_POSTGRES_DSN, else one started from installed binaries, else why there is none.

    A durable one syncs its commits to disk and may be killed.
    """
    if given := os.environ.get("TEST_POSTGRES_DSN"):
        yield Postgres(given)
        return
    with running(durable=durable) as server:
        yield server if isinstance(server, str) else Postgres(server.dsn, server)


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
