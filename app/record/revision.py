"""How far the schema of a database is, by the numbers of the steps in `migrations/`.

Without Alembic, which takes a third of a second and ten megabytes to load: only who runs a step needs it.
"""

from functools import cache
from pathlib import Path

from sqlalchemy import Connection, column, inspect, select, table

from app import logs
from app.record.database import Database

_STEPS = Path(__file__).resolve().parents[2] / "migrations" / "versions"
_VERSIONS = table("alembic_version", column("version_num"))

log = logs.get("migrate")


async def catch_up(database: Database) -> None:
    """Run the steps that are missing, if any are; raises Unavailable when a table stays locked by somebody else.

    A database that a newer version has migrated is left as it is, because steps only add and this version finds all
    that it knows.
    """
    if await database.read(is_newer):
        log.warning("the database was migrated by a newer version; this one works with what it knows")
    elif not await database.read(is_current):
        from app.record import migrate  # noqa: PLC0415 - see above

        await migrate.run_missing(database)


def is_current(connection: Connection) -> bool:
    """Whether no step is missing."""
    return reached(connection) == newest() or is_newer(connection)


def is_newer(connection: Connection) -> bool:
    """Whether a version that knows more steps than this one has migrated it. Their numbers rise."""
    found = reached(connection)
    return found is not None and found > newest()


def reached(connection: Connection) -> str | None:
    """The last step that a database has been through; None where it has no tables of ours."""
    if not inspect(connection).has_table(_VERSIONS.name):
        return None
    found: str | None = connection.execute(select(_VERSIONS.c.version_num)).scalar_one_or_none()
    return found


@cache
def newest() -> str:
    """The last step that this version knows."""
    return max(file.name.partition("_")[0] for file in _STEPS.glob("[0-9]*_*.py"))
