"""What a start does to its database: run the steps that are missing.

`record/migrate.py` runs them by Alembic, which takes a third of a second and ten megabytes to load: only where one is.
"""

from app.db.engine.database import Database
from app.db.migrations.revision import is_current, is_newer
from app.telemetry import logs

log = logs.get("migrate")


async def catch_up(database: Database) -> None:
    """Run the steps that are missing, if any are; raises Unavailable when a table stays locked by somebody else.

    A database that a newer version has migrated is left as it is, because steps only add and this version finds all
    that it knows.
    """
    if await database.read(is_newer):
        log.warning("schema_is_newer", detail="a newer version has migrated the database; this version can use it")
    elif not await database.read(is_current):
        from app.db.migrations import migrate  # noqa: PLC0415 - see above

        await migrate.run_missing(database)
