"""Bring a database to the schema of this version, by the numbered migration steps.

Any number of processes may try at once: one of them does it, the others find it done.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, func, inspect, select
from sqlalchemy.exc import DBAPIError

from app.db.engine.database import Database
from app.db.engine.postgres import Postgres
from app.db.migrations.revision import is_current, reached, steps_folder
from app.errors import ConfigurationError, Unavailable
from app.telemetry import logs

_MIGRATING = 0x666C7579  # names the lock that a migration takes, among all advisory locks of the database
# A step that waits for a table keeps everybody else from it too, so it gives up soon and comes back later.
_LOCK_TIMEOUT_MS = 2000
_PAUSES_S = (1, 2, 3, 5, 5, 5, 5)
_LOCK_NOT_AVAILABLE = "55P03"
_NOT_ALLOWED = "42501"

log = logs.get("migrate")


async def run_missing(
    database: Database, pauses_s: Sequence[float] = _PAUSES_S, lock_timeout_ms: int = _LOCK_TIMEOUT_MS
) -> None:
    """Run the steps that are missing: after each pause once more, when a table stays locked for longer than allowed.

    Raises Unavailable when a table stays locked by somebody else, ConfigurationError when our user may not do it.
    """
    try:
        await _run_missing(database, pauses_s, partial(upgrade, lock_timeout_ms=lock_timeout_ms))
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != _NOT_ALLOWED:
            raise
        raise ConfigurationError(
            "FLUXHOOK_DATABASE_URL: its user may not change the schema: have it own the database, or run "
            "`fluxhook migrate` as a user who may"
        ) from error


async def _run_missing(database: Database, pauses_s: Sequence[float], upgrading: Callable[[Connection], None]) -> None:
    if isinstance(database, Postgres):  # on SQLite the one process there is waits for its steps anyhow
        await _build_ahead(database)
    for pause in pauses_s:
        if await _upgraded(database, upgrading):
            return
        log.warning("migration_waiting", again_in_s=pause)
        await asyncio.sleep(pause)
    if not await _upgraded(database, upgrading):
        raise Unavailable(
            "the schema could not be changed: a table stays locked by somebody's long transaction (see "
            "pg_stat_activity). Nothing was changed; start again when that has ended"
        )


async def _build_ahead(database: Postgres) -> None:
    """Have the indexes made that the missing steps name in `AHEAD`: inside a step they would lock their tables.

    A step may name columns alone that were there before it. A table that is not there yet will be empty.
    """
    found = await database.read(reached)
    if found is None:
        return
    there = await database.read(lambda connection: inspect(connection).get_table_names())
    missing = [step for step in _steps().walk_revisions() if step.revision > found]
    named = [each for step in missing for each in getattr(step.module, "AHEAD", {}).items()]
    ahead = {name: what for name, what in named if what.split()[0] in there}
    while ahead and not await database.build(ahead):
        log.warning("index_build_waiting", again_in_s=_PAUSES_S[0])
        await asyncio.sleep(_PAUSES_S[0])


async def _upgraded(database: Database, upgrading: Callable[[Connection], None]) -> bool:
    """Whether it worked; False when somebody held a table for too long."""
    try:
        await database.write(upgrading)
    except Unavailable as error:
        if getattr(getattr(error.__cause__, "orig", None), "sqlstate", None) != _LOCK_NOT_AVAILABLE:
            raise
        return False
    return True


def upgrade(connection: Connection, lock_timeout_ms: int = _LOCK_TIMEOUT_MS) -> None:
    """Run the missing steps in the transaction of this connection; who tries meanwhile waits until it ends."""
    if connection.dialect.name == "postgresql":  # on SQLite whoever writes is alone
        connection.execute(select(func.pg_advisory_xact_lock(_MIGRATING)))
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {lock_timeout_ms}")
    if not is_current(connection):
        run(connection, command.upgrade, "head")


def run(connection: Connection, direction: Any, target: str) -> None:
    """Hand one of Alembic's commands, upgrade or downgrade, this connection and the revision to reach."""
    config = _config()
    config.attributes["connection"] = connection
    try:
        direction(config, target)
    except CommandError as error:
        raise ConfigurationError(f"the database's schema is none that this version can change: {error}") from error


@cache
def _steps() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(steps_folder()).replace("%", "%%"))
    return config
