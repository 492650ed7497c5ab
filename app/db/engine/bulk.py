"""Statements that take any number of rows in one call of the database.

A statement reads its rows from a relation named `given`. On PostgreSQL this is an `unnest` of one array for each
column. On SQLite it is a `VALUES` list whose length is rounded up to a power of two, so that few statements are
prepared; the rows of the padding have NULL in the first column and are skipped.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from itertools import chain
from typing import Any

from sqlalchemy import (
    JSON,
    ClauseElement,
    Connection,
    Dialect,
    FromClause,
    Select,
    Text,
    bindparam,
    cast,
    column,
    func,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import TypeEngine

from app.db.engine.columns import Instant, sortable

Row = Sequence[Any]
Types = Mapping[str, TypeEngine[Any]]
_PARAMETER = re.compile(r"\$(\d+)")


class Bulk:
    """A statement over rows of `columns`. `build(relation, dialect_name)` returns the statement.

    The first column of a row must not be NULL. JSON values are text. The rows are the only parameters.
    """

    def __init__(self, columns: Types, build: Callable[[FromClause, str], ClauseElement], then: str = "NULL") -> None:
        self.columns = columns
        self.then = then  # the SQL expression that PostgreSQL evaluates when `DeferredWrites` are sent
        self._build = build
        self._texts: dict[int, str] = {}  # by the number of rows, 0 on PostgreSQL
        self._instants = [index for index, kind in enumerate(columns.values()) if isinstance(kind, Instant)]

    def run(self, connection: Connection, rows: Sequence[Row]) -> Sequence[Row]:
        """Run it on rows of values in the order of the columns. Returns the driver's rows, unconverted."""
        dialect = connection.dialect
        if dialect.name == "postgresql":
            result = connection.exec_driver_sql(self.text(dialect), self.arrays(rows))
            return [tuple(row) for row in result] if result.returns_rows else []
        size = 1 << (len(rows) - 1).bit_length()
        padding = [None] * (len(self.columns) * (size - len(rows)))
        converted = map(self._converted, rows) if self._instants else rows
        values = (*chain.from_iterable(converted), *padding)
        return _execute(connection, self.text(dialect, size), values)

    def text(self, dialect: Dialect, size: int = 0) -> str:
        """Return the SQL of the statement. `size` is the number of rows on SQLite, and 0 on PostgreSQL."""
        sql = self._texts.get(size)
        if sql is None:
            sql = self._texts[size] = str(self._statement(dialect, size).compile(dialect=dialect))
        return sql

    def _statement(self, dialect: Dialect, size: int) -> ClauseElement:
        return self._build(_values(self.columns, size) if size else _unnested(self.columns), dialect.name)

    def arrays(self, rows: Sequence[Row]) -> tuple[list[Any], ...]:
        """Return one array for each column: the parameters on PostgreSQL."""
        return tuple(list(values) for values in zip(*rows, strict=True))

    def _converted(self, row: Row) -> list[Any]:
        """Return the row with its instants as text, because SQLite has no type for them."""
        values = list(row)
        for index in self._instants:
            if values[index] is not None:
                values[index] = sortable(values[index])
        return values


def _execute(connection: Connection, statement: str, values: Sequence[Any]) -> Sequence[Row]:
    """Run a statement on SQLite past SQLAlchemy, which would double its time.

    The engine's listeners for `before_cursor_execute` are called. Errors are those of the driver.
    """
    for listener in connection.dispatch.before_cursor_execute:
        listener(connection, None, statement, values, None, False)
    driver: Any = connection.connection.driver_connection
    rows: Sequence[Row] = driver.execute(statement, values).fetchall()
    return rows


class DeferredWrites:
    """Collects the write statements of a transaction until `send`; PostgreSQL runs them as one, in one round trip.

    Send them before a read that must see them. On PostgreSQL no write sees the others of the same `send`.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._writes: list[tuple[Bulk, Sequence[Row]]] = []

    def add(self, bulk: Bulk, rows: Sequence[Row]) -> None:
        """Add a statement, whose result is ignored, on these rows: at least one."""
        self._writes.append((bulk, rows))

    def send(self) -> None:
        """Run the statements, in the order in which they were added."""
        writes, self._writes = self._writes, []
        if self.connection.dialect.name != "postgresql":
            for bulk, rows in writes:
                bulk.run(self.connection, rows)
        elif writes:
            sql = _combined(self.connection.dialect, tuple(bulk for bulk, _ in writes))
            arrays = chain.from_iterable(bulk.arrays(rows) for bulk, rows in writes)
            self.connection.exec_driver_sql(sql, tuple(arrays))


@lru_cache(maxsize=256)
def _combined(dialect: Dialect, bulks: tuple[Bulk, ...]) -> str:
    """Return one statement for PostgreSQL that runs all of these; its parameters are theirs, one after the other."""
    parts, offset = [], 0
    for number, bulk in enumerate(bulks):
        shifted = partial(_shifted, offset=offset)
        parts.append(f"s{number} AS ({_PARAMETER.sub(shifted, bulk.text(dialect))})")
        offset += len(bulk.columns)
    return f"WITH {', '.join(parts)} SELECT {', '.join(bulk.then for bulk in bulks)}"


def _shifted(parameter: re.Match[str], offset: int) -> str:
    return f"${int(parameter[1]) + offset}"


class BulkRead(Bulk):
    """A SELECT over any number of rows. It cannot return bytes.

    On SQLite the whole result is one JSON document, because each row of a result would be a step of the engine.
    """

    def find(self, connection: Connection, rows: Sequence[Row]) -> Sequence[Row]:
        """Return the rows of the driver, unconverted: on SQLite instants and JSON are text."""
        result = self.run(connection, rows)
        if connection.dialect.name == "postgresql":
            return result
        document: Sequence[Row] = json.loads(result[0][0])
        return document

    def _statement(self, dialect: Dialect, size: int) -> ClauseElement:
        statement = super()._statement(dialect, size)
        if not size:
            return statement
        assert isinstance(statement, Select)  # noqa: S101 - `build` returns a SELECT
        result = statement.subquery()
        return select(func.json_group_array(func.json_array(*result.c)))


def _values(columns: Types, size: int) -> FromClause:
    """Return the relation on SQLite, for `size` rows."""
    row = f"({', '.join('?' * len(columns))})"
    named = ", ".join(f"column{number} AS {name}" for number, name in enumerate(columns, 1))
    rows = ", ".join([row] * size)
    relation = f"SELECT {named} FROM (VALUES {rows}) WHERE column1 IS NOT NULL"  # noqa: S608 - our names
    typed = [column(name, kind) for name, kind in columns.items()]
    return text(relation).columns(*typed).subquery("given")


def _unnested(columns: Types) -> FromClause:
    """Return the relation on PostgreSQL. JSON is sent as text and cast."""
    arrays = [bindparam(name, type_=ARRAY(_wire_type(kind))) for name, kind in columns.items()]
    named = [column(name, _wire_type(kind)) for name, kind in columns.items()]
    raw = func.unnest(*arrays).table_valued(*named, name="raw").render_derived()
    typed = [
        cast(raw.c[name], kind).label(name) if isinstance(kind, JSON) else raw.c[name] for name, kind in columns.items()
    ]
    return select(*typed).subquery("given")


def _wire_type(kind: TypeEngine[Any]) -> TypeEngine[Any]:
    return Text() if isinstance(kind, JSON) else kind
