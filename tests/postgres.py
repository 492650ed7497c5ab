"""A PostgreSQL server for the tests, with a database for each test.

If there is no server it returns the reason, and the caller decides to skip or to fail.
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

# For small tables DELETE is ten times faster than TRUNCATE, and that is faster than creating a database.
_EMPTY = """
DO $$
DECLARE
    name text;
BEGIN
    PERFORM pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend';
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version' LOOP
        -- The audit refuses DELETE.
        EXECUTE format(CASE name WHEN 'audit' THEN 'TRUNCATE %I' ELSE 'DELETE FROM %I' END, name);
    END LOOP;
END $$
"""


# Replaces `now()` by the time that a transaction sets, so that PgQueuer follows the clock of a test. PgQueuer compares
# with `<`, hence the microsecond.
_FROZEN_NOW = """
CREATE SCHEMA frozen;
CREATE FUNCTION frozen.now() RETURNS timestamptz STABLE LANGUAGE sql AS $$
    SELECT coalesce(nullif(current_setting('frozen.now', true), '')::timestamptz + '1 microsecond', pg_catalog.now())
$$;
"""


def set_time(connection: Connection, now: datetime) -> None:
    """Set the time for the rest of this transaction. Does nothing on SQLite, which has no clock of its own."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SELECT set_config('frozen.now', $1, true)", (now.isoformat(),))


def keep_time(database: Database, now: Callable[[], datetime]) -> None:
    """Set the time of each transaction of this database from the clock of a test."""
    if isinstance(database, Engine):
        (engine,) = database.engines
        event.listen(engine, "begin", lambda connection: set_time(connection, now()))


@dataclass(frozen=True)
class Postgres:
    """A running server; `dsn` is the URL of its maintenance database."""

    dsn: str
    process: Server | None = None  # None: not started by the tests, so they must not kill it

    def address(self, database: str) -> str:
        """Return the URL of a database of this server, for asyncpg and SQLAlchemy."""
        return urlunsplit(urlsplit(self.dsn)._replace(path=f"/{database}"))

    async def create(self, database: str, template: str = "template0") -> str:
        """Create a database and return its URL. The template must not have any connections."""
        await _execute(self.dsn, f'CREATE DATABASE "{database}" TEMPLATE "{template}"')
        return self.address(database)

    async def use_clock(self, database: str) -> None:
        """Prepare this database for `set_time`."""
        await _execute(self.address(database), _FROZEN_NOW)
        await _execute(self.dsn, f'ALTER DATABASE "{database}" SET search_path = frozen, pg_catalog, public')

    async def empty(self, database: str) -> None:
        """Delete all rows of a migrated database, and end all other connections to it."""
        await _execute(self.address(database), _EMPTY)

    async def drop(self, database: str) -> None:
        """Drop a database, and end all connections to it."""
        await _execute(self.dsn, f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')


@contextmanager
def start_postgres(*, durable: bool = False) -> Generator[Postgres | str]:
    """Yield the server of TEST_POSTGRES_DSN, else one started from installed binaries, else the reason for its lack.

    With `durable`, a started server syncs its commits to disk, so that a test may kill it.
    """
    if dsn := os.environ.get("TEST_POSTGRES_DSN"):
        yield Postgres(dsn)
        return
    with running(durable=durable) as server:
        yield server if isinstance(server, str) else Postgres(server.dsn, server)


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
