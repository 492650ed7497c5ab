"""Where the migration steps are, and how far the schema of a database has come by their numbers.

Read without Alembic, which takes long to load and is needed only to run a step.
"""

from functools import cache
from pathlib import Path

from sqlalchemy import Connection, column, inspect, select, table

_PACKAGE = Path(__file__).resolve().parents[2]
_VERSIONS = table("alembic_version", column("version_num"))


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
    return max(file.name.partition("_")[0] for file in steps_folder().glob("versions/[0-9]*_*.py"))


def steps_folder(package: Path = _PACKAGE) -> Path:
    """The folder with the steps: inside the installed package, or beside `app/` in a checkout."""
    packaged = package / "_migrations"
    return packaged if packaged.is_dir() else package.parent / "migrations"
