"""Bring a database to the schema of this version, with the numbered migrations.

Any number of processes may try at once: one of them migrates, the others wait and find nothing to do.

Alembic is imported only to run a migration, because it takes a third of a second and ten megabytes to load.
"""

import asyncio
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Connection, func, select, text
from sqlalchemy.exc import DBAPIError

from app.db.engine.database import Database, as_postgres
from app.db.engine.long_work import long_work
from app.db.migrations.revision import is_current, is_newer, reached, steps_folder
from app.errors import ConfigurationError, DatabaseUnavailable, Unavailable
from app.telemetry import logs

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    from app.db.engine.postgres import Postgres

_MIGRATION_LOCK = 0x666C7579  # the key of the advisory lock of a migration
# A migration that waits for a table's lock blocks every later access to that table, so it gives up soon and retries.
_LOCK_TIMEOUT_MS = 2000
_PAUSES_S = (1, 2, 3, 5, 5, 5, 5)
_RETRIED = frozenset({"55P03", "40P01"})  # lock_not_available, deadlock_detected
# The queries are left out: they may hold values.
_BLOCKERS = text(
    "SELECT pid, usename, left(application_name, 40) AS name, state, date_trunc('second', now() - xact_start) AS age "
    "FROM pg_stat_activity WHERE datname = current_database() AND xact_start IS NOT NULL AND pid <> pg_backend_pid() "
    "ORDER BY xact_start LIMIT 3"
)
_INSUFFICIENT_PRIVILEGE = "42501"

T = TypeVar("T")

log = logs.get("migrate")


async def catch_up(database: Database) -> None:
    """Run the missing migrations, if there are any. Raises as `run_missing` does, or if the direct URL is wrong.

    A database that a newer version has migrated is left unchanged: migrations only add, so this version can use it.
    """
    postgres = as_postgres(database)
    if postgres is not None:
        await postgres.check_direct_url()
    if await database.read(is_newer):
        log.warning("schema_is_newer", detail="a newer version has migrated the database; this version can use it")
    elif not await database.read(is_current):
        await run_missing(database)


async def run_missing(
    database: Database, pauses_s: Sequence[float] = _PAUSES_S, lock_timeout_ms: int = _LOCK_TIMEOUT_MS
) -> None:
    """Run the missing migrations, each in a transaction of its own.

    If a migration cannot lock a table within the timeout, or its locks and those of the service deadlock, it is rolled
    back and retried after each of the pauses. The migrations before it stay. Raises DatabaseUnavailable if it still
    fails, and ConfigurationError if the database user may not change the schema.
    """
    try:
        await _run_missing(database, pauses_s, lock_timeout_ms)
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != _INSUFFICIENT_PRIVILEGE:
            raise
        raise ConfigurationError(
            "FLUXHOOK_DATABASE_URL: its user may not change the schema: make it the owner of the database, or run "
            "`fluxhook migrate` as a user with that right"
        ) from error


async def _run_missing(database: Database, pauses_s: Sequence[float], lock_timeout_ms: int) -> None:
    postgres = as_postgres(database)
    before = await database.read(reached)
    pauses = iter(pauses_s)
    while not await database.read(is_current):
        last = await database.read(reached)
        if postgres is not None:  # on SQLite the only process waits for its migrations anyway
            await _build_indexes(postgres, last)
        if await try_next(database, lock_timeout_ms, last):
            pauses = iter(pauses_s)
            continue
        blockers = await database.read(_describe_blockers)
        pause = next(pauses, None)
        if pause is None:
            raise DatabaseUnavailable(
                f"the schema could not be changed, because other transactions lock its tables: {blockers}. Start again "
                "when they have ended"
            )
        log.warning("migration_waiting", again_in_s=pause, blocked_by=blockers)
        await asyncio.sleep(pause)
    log.info("schema_migrated", from_revision=before, to_revision=await database.read(reached))


async def _build_indexes(database: "Postgres", last: str | None) -> None:
    """Create the indexes that the migration after `last` lists in `AHEAD`: the migration would lock their tables.

    Such an index may use only columns that exist before its migration. An empty database has no rows to index.
    """
    definitions: dict[str, str] = _of_migration_after(last, "AHEAD", {})
    while definitions and not await _try_build(database, definitions):
        log.warning("index_build_waiting", again_in_s=_PAUSES_S[0])
        await asyncio.sleep(_PAUSES_S[0])


def _of_migration_after(last: str | None, name: str, default: T) -> T:
    """What the migration after `last` defines with this name. An empty database needs none of it."""
    if last is None:
        return default
    following = next((step for step in _steps().walk_revisions() if step.down_revision == last), None)
    found: T = getattr(following and following.module, name, default)
    return found


async def _try_build(database: "Postgres", definitions: Mapping[str, str]) -> bool:
    """Return False if another process is building indexes, or if its migration and a build deadlocked."""
    try:
        return await database.build_indexes(definitions)
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) not in _RETRIED:
            raise
        return False


async def try_next(database: Database, lock_timeout_ms: int, last: str | None) -> bool:
    """Run the migration after `last`, unless another process does. Return False if it got a lock too late.

    A migration that is the victim of a deadlock got a lock too late, too. On PostgreSQL the statements that it lists in
    `ALONE` run first, each in a transaction of its own. Each must be harmless when it is repeated.
    """
    postgres = as_postgres(database)
    try:
        if postgres is None:
            with long_work():
                await database.write(_upgrade_by_one, lock_timeout_ms, last)
        else:
            statements: tuple[str, ...] = _of_migration_after(last, "ALONE", ())
            for statement in statements:
                await postgres.write_directly(_run_alone, lock_timeout_ms, last, statement)
            await postgres.write_directly(_upgrade_by_one, lock_timeout_ms, last)
    except Unavailable as error:
        if getattr(getattr(error.__cause__, "orig", None), "sqlstate", None) not in _RETRIED:
            raise
        return False
    return True


def upgrade(connection: Connection) -> None:
    """Run all missing migrations in the transaction of `connection`, for a database that nothing else uses."""
    while not is_current(connection):
        _upgrade_by_one(connection, _LOCK_TIMEOUT_MS, reached(connection))


def _upgrade_by_one(connection: Connection, lock_timeout_ms: int, last: str | None) -> None:
    """Run the migration after `last`. Another process that tries waits for the end, and then does nothing.

    It must not go on with a later migration: its indexes may not be built yet, or another process is building them.

    One migration in a transaction locks few tables, so it seldom waits for a transaction that waits for it. An empty
    database gets all migrations at once: nothing uses it, and no other process sees it half done.
    """
    from alembic import command  # noqa: PLC0415 - see above

    if connection.dialect.name == "postgresql":  # on SQLite only one connection can write at a time
        _wait_for_turn(connection, lock_timeout_ms)
    if reached(connection) == last and not is_current(connection):
        run(connection, command.upgrade, "head" if last is None else "+1")


def _run_alone(connection: Connection, lock_timeout_ms: int, last: str | None, statement: str) -> None:
    _wait_for_turn(connection, lock_timeout_ms)
    if reached(connection) == last:
        connection.exec_driver_sql(statement)


def _wait_for_turn(connection: Connection, lock_timeout_ms: int) -> None:
    """Let one process at a time change the schema, and give up a lock of a table after the timeout."""
    connection.execute(select(func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = {lock_timeout_ms}")  # security: a number


def _describe_blockers(connection: Connection) -> str:
    """Describe the open transactions that lock tables, oldest first. SQLite has no others."""
    if connection.dialect.name != "postgresql":
        return "unknown"
    rows = connection.execute(_BLOCKERS).all()
    described = [
        f"process {row.pid} of {row.usename} ({row.name or 'unnamed'}, {row.state}, {row.age})" for row in rows
    ]
    return "; ".join(described) or "they have just ended"


def run(connection: Connection, direction: Any, target: str) -> None:
    """Run `alembic.command.upgrade` or `downgrade` to the revision `target`, on this connection.

    Raises ConfigurationError if Alembic cannot do it, as for a database with an unknown revision.
    """
    from alembic.util import CommandError  # noqa: PLC0415 - see above

    config = _config()
    config.attributes["connection"] = connection
    try:
        direction(config, target)
    except CommandError as error:
        raise ConfigurationError(f"this version cannot change the schema of the database: {error}") from error


@cache
def _steps() -> "ScriptDirectory":
    from alembic.script import ScriptDirectory  # noqa: PLC0415 - see above

    return ScriptDirectory.from_config(_config())


def _config() -> "Config":
    from alembic.config import Config  # noqa: PLC0415 - see above

    config = Config()
    config.set_main_option("script_location", str(steps_folder()).replace("%", "%%"))
    return config
