"""Index changes for migrations that take no lock if there is nothing to do.

`CREATE INDEX IF NOT EXISTS` locks the table before it looks, and so waits for its writers, and they for it.
"""

from collections.abc import Sequence
from typing import Any

from alembic import op
from sqlalchemy import TextClause, inspect, text


def create_index_if_missing(name: str, table: str, columns: Sequence[str | TextClause], *, where: Any = None) -> None:
    """Create an index, partial if `where` is given. Usually it was built concurrently before the migration."""
    if not _has_index(name, table):
        op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)


def drop_index_if_present(name: str, table: str) -> None:
    if _has_index(name, table):
        op.drop_index(name, table)


def _has_index(name: str, table: str) -> bool:
    connection = op.get_bind()
    if connection.dialect.name == "sqlite":  # SQLAlchemy does not see SQLite's indexes of expressions
        listed = text("SELECT 1 FROM sqlite_master WHERE type = 'index' AND name = :name AND tbl_name = :table")
        return connection.execute(listed, {"name": name, "table": table}).one_or_none() is not None
    return any(index["name"] == name for index in inspect(connection).get_indexes(table))
