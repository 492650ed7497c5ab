"""Bring a database to the schema of this version, with the numbered migrations.

Any number of processes may try at once: one of them migrates, the others wait and find nothing to do.

Alembic is imported only to run a migration, because it takes a third of a second and ten megabytes to load.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, func, inspect, select
from sqlalchemy.exc import DBAPIError

from app.db.engine.database import Database
from app.db.migrations.revision import is_current, is_newer, reached, steps_folder
from app.errors import ConfigurationError, Unavailable
from app.telemetry import logs

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    from app.db.engine.postgres import Postgres

_MIGRATION_LOCK = 0x666C7579  # the key of the advisory lock of a migration
# A migration that waits for a table's lock blocks every later access to that table, so it gives up soon and retries.
_LOCK_TIMEOUT_MS = 2000
_PAUSES_S = (1, 2, 3, 5, 5, 5, 5)
_LOCK_NOT_AVAILABLE = "55P03"
_INSUFFICIENT_PRIVILEGE = "42501"

log = logs.get("migrate")


async def catch_up(database: Database) -> None:
    """Run the missing migrations, if there are any. Raises as `run_missing` does.

    A database that a newer version has migrated is left unchanged: migrations only add, so this version can use it.
    """
    if await database.read(is_newer):
        log.warning("schema_is_newer", detail="a newer version has migrated the database; this version can use it")
    elif not await database.read(is_current):
        await run_missing(database)


async def run_missing(
    database: Database, pauses_s: Sequence[float] = _PAUSES_S, lock_timeout_ms: int = _LOCK_TIMEOUT_MS
) -> None:
    """Run the missing migrations. If a table is locked for longer than the timeout, retry after each of the pauses.

    Raises Unavailable if a table stays locked, ConfigurationError if the database user may not change the schema.
    """
    try:
        await _run_missing(database, pauses_s, partial(upgrade, lock_timeout_ms=lock_timeout_ms))
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != _INSUFFICIENT_PRIVILEGE:
            raise
        raise ConfigurationError(
            "FLUXHOOK_DATABASE_URL: its user may not change the schema: make it the owner of the database, or run "
            "`fluxhook migrate` as a user with that right"
        ) from error


async def _run_missing(database: Database, pauses_s: Sequence[float], work: Callable[[Connection], None]) -> None:
    if database.dialect.name == "postgresql":  # on SQLite the only process waits for its migrations anyway
        from app.db.engine.postgres import Postgres  # noqa: PLC0415 - SQLite does not need asyncpg

        assert isinstance(database, Postgres)  # noqa: S101 - the only engine of this dialect
        await _build_indexes(database)
    for pause in pauses_s:
        if await _try_upgrade(database, work):
            return
        log.warning("migration_waiting", again_in_s=pause)
        await asyncio.sleep(pause)
    if not await _try_upgrade(database, work):
        raise Unavailable(
            "the schema could not be changed, because a long transaction locks one of its tables (see "
            "pg_stat_activity). Nothing was changed; start again when that transaction has ended"
        )


async def _build_indexes(database: "Postgres") -> None:
    """Create the indexes that the missing migrations list in `AHEAD`: a migration would lock their tables.

    Such an index may use only columns that exist before its migration. A table that does not exist yet is skipped,
    because it is empty when the migration creates its index.
    """
    last = await database.read(reached)
    if last is None:
        return
    tables = await database.read(lambda connection: inspect(connection).get_table_names())
    missing = [step for step in _steps().walk_revisions() if step.revision > last]
    listed = [index for step in missing for index in getattr(step.module, "AHEAD", {}).items()]
    definitions = {name: definition for name, definition in listed if definition.split()[0] in tables}
    while definitions and not await database.build_indexes(definitions):
        log.warning("index_build_waiting", again_in_s=_PAUSES_S[0])
        await asyncio.sleep(_PAUSES_S[0])


async def _try_upgrade(database: Database, work: Callable[[Connection], None]) -> bool:
    """Return False if a table was locked for longer than the timeout."""
    try:
        await database.write(work)
    except Unavailable as error:
        if getattr(getattr(error.__cause__, "orig", None), "sqlstate", None) != _LOCK_NOT_AVAILABLE:
            raise
        return False
    return True


def upgrade(connection: Connection, lock_timeout_ms: int = _LOCK_TIMEOUT_MS) -> None:
    """Run the missing migrations in the transaction of `connection`. Another process that tries waits for its end."""
    from alembic import command  # noqa: PLC0415 - see above

    if connection.dialect.name == "postgresql":  # on SQLite only one connection can write at a time
        connection.execute(select(func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {lock_timeout_ms}")
    if not is_current(connection):
        run(connection, command.upgrade, "head")


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
