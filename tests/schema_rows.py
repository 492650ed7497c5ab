"""Made-up rows for the tables of a database at any revision, from its reflected columns."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import Column, MetaData, Table, select

from app.db import Connection
from app.db.migrations import all_tables, migrate
from app.db.migrations.revision import reached

STEPS = ScriptDirectory(str(Path(__file__).parents[1] / "migrations"))
REVISIONS = [step.revision for step in STEPS.walk_revisions()][::-1]
Rows = dict[str, list[dict[str, Any]]]


def reach(connection: Connection, revision: str) -> None:
    """Migrate a database up or down to this revision; `base` is the empty schema."""
    down = revision == "base" or revision < (reached(connection) or "")
    migrate.run(connection, command.downgrade if down else command.upgrade, revision)


def found_tables(connection: Connection) -> list[Table]:
    """Return the service's tables as the database has them, in dependency order."""
    reflected = MetaData()
    reflected.reflect(connection, only=lambda name, _: name in all_tables.metadata.tables)
    return reflected.sorted_tables


def shape(connection: Connection) -> dict[str, Any]:
    """Return the columns, keys and indexes of each table in a form that can be compared."""
    return {
        table.name: (
            sorted((column.name, str(column.type), column.nullable, column.primary_key) for column in table.columns),
            sorted((str(index.name), index.columns.keys(), index.unique) for index in table.indexes),
        )
        for table in found_tables(connection)
    }


def made_up(table: Table, number: int) -> dict[str, Any]:
    """Return a row with a value in every column. Rows of different numbers differ."""
    return {column.name: _value(column, number) for column in table.columns}


def _value(column: Column[Any], number: int) -> Any:
    values: dict[type, Any] = {
        bool: True,
        int: number,
        float: number / 2,
        bytes: b"%d" % number,
        datetime: datetime(2026, 1, 1, tzinfo=UTC),
        str: str(number),
    }
    return values.get(column.type.python_type, {"number": number})


def fill(connection: Connection, rows: int = 3) -> None:
    for table in found_tables(connection):
        connection.execute(table.insert(), [made_up(table, number) for number in range(rows)])


def rows_of(connection: Connection, tables: list[Table]) -> Rows:
    """Return the rows of these tables, by table name, with only the columns that the given tables have."""
    return {table.name: list(_dicts(connection, table)) for table in tables}


def _dicts(connection: Connection, table: Table) -> Iterator[dict[str, Any]]:
    for row in connection.execute(select(*table.columns).order_by(*table.primary_key.columns)).mappings():
        yield dict(row)
