"""The folder of the migrations, and the revision of a database.

It works without Alembic, which takes long to load and is needed only to run a migration.
"""

from functools import cache
from pathlib import Path

from sqlalchemy import Connection, column, inspect, select, table

_PACKAGE = Path(__file__).resolve().parents[2]
_VERSIONS = table("alembic_version", column("version_num"))


def is_current(connection: Connection) -> bool:
    """Whether the schema has all migrations of this version."""
    return reached(connection) == newest() or is_newer(connection)


def is_newer(connection: Connection) -> bool:
    """Whether a newer version has migrated the database: its revision is greater than the newest of this version."""
    revision = reached(connection)
    return revision is not None and revision > newest()


def reached(connection: Connection) -> str | None:
    """Return the revision of the database, or None if it has no tables of Fluxhook."""
    if not inspect(connection).has_table(_VERSIONS.name):
        return None
    revision: str | None = connection.execute(select(_VERSIONS.c.version_num)).scalar_one_or_none()
    return revision


@cache
def newest() -> str:
    """Return the newest revision of this version."""
    return max(file.name.partition("_")[0] for file in steps_folder().glob("versions/[0-9]*_*.py"))


def steps_folder(package: Path = _PACKAGE) -> Path:
    """Return the folder of the migrations: in the installed package, or beside `app/` in a checkout."""
    packaged = package / "_migrations"
    return packaged if packaged.is_dir() else package.parent / "migrations"
