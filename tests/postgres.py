"""A PostgreSQL server for the tests, and a database of its own for each of them.

It must not decide what a test does without one: it gives the reason, and the caller skips or fails.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg  # type: ignore[import-untyped]
from sqlalchemy import Connection, event

from app.record.database import Database
from app.record.postgres import Postgres as Engine

_START_SECONDS = 30.0
_USER = "postgres"
# Its data never outlives the run, so nothing waits for a disk.
_SETTINGS = {
    "autovacuum": "off",
    "fsync": "off",
    "full_page_writes": "off",
    "listen_addresses": "",
    "max_connections": "200",
    "synchronous_commit": "off",
}

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
        event.listen(database._engine.sync_engine, "begin", lambda connection: set_time(connection, now()))


@dataclass(frozen=True)
class Postgres:
    """A running server, by the address of its maintenance database."""

    dsn: str

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
def start_postgres() -> Generator[Postgres | str]:
    """The server of TEST_POSTGRES_DSN, else one started from installed binaries, else why there is none."""
    if given := os.environ.get("TEST_POSTGRES_DSN"):
        yield Postgres(given)
    elif not (binaries := _newest_binaries()):
        yield "no PostgreSQL here: set TEST_POSTGRES_DSN, or install the server's binaries"
    else:
        # The path of a unix socket may have 107 characters, more than some temporary folders leave over.
        folder = Path(tempfile.mkdtemp(prefix="fluxhook-pg-", dir="/tmp"))
        try:
            with _running(binaries, folder) as server:
                yield server
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def client_programs() -> Path | None:
    """The folder that pg_dump and pg_restore are in."""
    beside = _newest_binaries()
    if beside is not None and (beside / "pg_dump").exists():
        return beside
    on_path = shutil.which("pg_dump")
    return Path(on_path).parent if on_path else None


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def _newest_binaries() -> Path | None:
    places = [*Path("/usr/lib/postgresql").glob("*/bin"), *Path("/opt/homebrew/opt").glob("postgresql@*/bin")]
    found = [place for place in places if (place / "initdb").exists()]
    if found:
        return max(found, key=_major_version)
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


def _major_version(binaries: Path) -> int:
    return int("".join(filter(str.isdigit, binaries.parent.name)) or 0)


@contextmanager
def _running(binaries: Path, folder: Path) -> Iterator[Postgres | str]:
    data, log = folder / "data", folder / "log"
    try:
        flags = ["-A", "trust", "-U", _USER, "-E", "UTF8", "--no-locale", "--no-sync"]
        _run(*_not_as_root(), binaries / "initdb", *flags, "-D", data)
    except subprocess.CalledProcessError as refused:
        yield f"PostgreSQL does not start here: {refused.stderr.decode()[-500:]}"
        return
    except OSError as missing:
        yield f"PostgreSQL does not start here: {missing}"
        return
    settings = [f"--{name}={value}" for name, value in _SETTINGS.items()]
    with log.open("w") as out:
        server = subprocess.Popen(  # noqa: S603
            [*_not_as_root(), binaries / "postgres", "-D", data, "-k", folder, *settings],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    try:
        if _answers(binaries, folder, server):
            yield Postgres(f"postgresql://{_USER}@/postgres?host={folder}")
        else:
            yield f"PostgreSQL does not start here: {log.read_text()[-500:]}"
    finally:
        # SIGINT ends sessions and stops; SIGTERM would wait for every session to leave by itself.
        server.send_signal(signal.SIGINT)
        server.wait(_START_SECONDS)


def _answers(binaries: Path, folder: Path, server: subprocess.Popen[bytes]) -> bool:
    until = time.monotonic() + _START_SECONDS
    while server.poll() is None and time.monotonic() < until:
        try:
            _run(binaries / "pg_isready", "-h", folder, "-U", _USER)
        except subprocess.CalledProcessError:
            time.sleep(0.02)
        else:
            return True
    return False


def _not_as_root() -> list[str]:
    """PostgreSQL refuses root and wants a user with a name: in a user namespace, root can be `nobody`."""
    if os.geteuid() != 0:
        return []
    nobody = pwd.getpwnam("nobody")
    return ["unshare", "--user", f"--map-user={nobody.pw_uid}", f"--map-group={nobody.pw_gid}"]


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)  # noqa: S603
