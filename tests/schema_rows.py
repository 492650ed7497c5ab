"""Made-up rows for the tables of a database at any revision, from its reflected columns."""

from collections.abc import Iterator, Sequence
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
APPEND_ONLY = frozenset({"audit"})
_found: dict[tuple[str, str, str], Table] = {}
Rows = dict[str, list[dict[str, Any]]]


def reach(connection: Connection, revision: str) -> None:
    """Migrate a database up or down to this revision; `base` is the empty schema."""
    down = revision == "base" or revision < (reached(connection) or "")
    migrate.run(connection, command.downgrade if down else command.upgrade, revision)


def found_tables(connection: Connection) -> list[Table]:
    """Return the service's tables as the database has them, in dependency order.

    An unchanged table is the same object as before, so that its statements are compiled once.
    """
    reflected = MetaData()
    reflected.reflect(connection, only=lambda name, _: name in all_tables.metadata.tables)
    return [
        _found.setdefault((connection.dialect.name, table.name, repr(_form(table))), table)
        for table in reflected.sorted_tables
    ]


def shape(tables: Sequence[Table]) -> dict[str, Any]:
    """Return the columns, keys and indexes of each table in a form that can be compared."""
    return {table.name: _form(table) for table in tables}


def _form(table: Table) -> Any:
    return (
        sorted((column.name, str(column.type), column.nullable, column.primary_key) for column in table.columns),
        sorted((str(index.name), index.columns.keys(), index.unique) for index in table.indexes),
    )


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


def fill(connection: Connection, rows: int = 3, tables: Sequence[Table] | None = None) -> None:
    """Insert rows into these tables, or into all that are found, which takes longer."""
    for table in found_tables(connection) if tables is None else tables:
        connection.execute(table.insert(), [made_up(table, number) for number in range(rows)])


def clear(connection: Connection, tables: Sequence[Table]) -> None:
    """Delete all rows, also those of the audit, which refuses that."""
    for table in tables:
        if table.name in APPEND_ONLY and connection.dialect.name == "postgresql":
            connection.exec_driver_sql(f"TRUNCATE {table.name}")
            continue
        if table.name in APPEND_ONLY:
            connection.exec_driver_sql("DROP TRIGGER audit_no_delete")
        connection.execute(table.delete())
        if table.name in APPEND_ONLY:
            refuse = "BEGIN SELECT RAISE(ABORT, 'the audit can only be appended to'); END"
            connection.exec_driver_sql(f"CREATE TRIGGER audit_no_delete BEFORE DELETE ON {table.name} {refuse}")


def rows_of(connection: Connection, tables: list[Table]) -> Rows:
    """Return the rows of these tables, by table name, with only the columns that the given tables have."""
    return {table.name: list(_dicts(connection, table)) for table in tables}


def _dicts(connection: Connection, table: Table) -> Iterator[dict[str, Any]]:
    for row in connection.execute(select(*table.columns).order_by(*table.primary_key.columns)).mappings():
        yield dict(row)
