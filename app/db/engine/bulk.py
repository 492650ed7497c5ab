"""One statement for any number of rows: they come as one relation, `given`, which the statement reads.

A group is one call of the engine then, and not one for each row. On PostgreSQL the relation is an `unnest` of one array
for each column. On SQLite it is a `VALUES` with room for the next power of two of rows, so that few texts have to be
prepared; rows that are only there to fill it have no first column, and are passed over.
"""

import json
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
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
_TOGETHER = "written_together"
_PARAMETER = re.compile(r"\$(\d+)")


class Bulk:
    """A statement over rows of these columns; `build` writes it, given the relation and the database's name.

    The first column is never NULL. JSON is given as text. The statement has no parameters but the rows.
    """

    def __init__(self, columns: Types, build: Callable[[FromClause, str], ClauseElement], then: str = "NULL") -> None:
        self.columns = columns
        self.then = then  # what PostgreSQL evaluates when it is done
        self._build = build
        self._texts: dict[int, str] = {}  # by the room for rows; 0: on PostgreSQL, where it does not matter
        self._instants = [place for place, kind in enumerate(columns.values()) if isinstance(kind, Instant)]

    def run(self, connection: Connection, rows: Sequence[Row]) -> Sequence[Row]:
        """Run it on rows of values in the order of the columns. What it returns is as the driver gives it."""
        dialect = connection.dialect
        if dialect.name == "postgresql":
            result = connection.exec_driver_sql(self.text(dialect), self.arrays(rows))
            return [tuple(row) for row in result] if result.returns_rows else []
        room = 1 << (len(rows) - 1).bit_length()
        filling = [None] * (len(self.columns) * (room - len(rows)))
        bound = map(self._bound, rows) if self._instants else rows
        values = (*chain.from_iterable(bound), *filling)
        return _execute(connection, self.text(dialect, room), values)

    def write(self, connection: Connection, rows: Sequence[Row]) -> None:
        """Run it for its effect: at once, or where `together` ends."""
        waiting = connection.info.get(_TOGETHER)
        if waiting is None:
            _write(connection, [(self, rows)])
        else:
            waiting.append((self, rows))

    def text(self, dialect: Dialect, room: int = 0) -> str:
        """The statement; `room` is for how many rows, on SQLite."""
        found = self._texts.get(room)
        if found is None:
            found = self._texts[room] = str(self._statement(dialect, room).compile(dialect=dialect))
        return found

    def _statement(self, dialect: Dialect, room: int) -> ClauseElement:
        return self._build(_values(self.columns, room) if room else _unnested(self.columns), dialect.name)

    def arrays(self, rows: Sequence[Row]) -> tuple[list[Any], ...]:
        return tuple(list(values) for values in zip(*rows, strict=True))

    def _bound(self, row: Row) -> list[Any]:
        """As SQLite keeps what it has no type for."""
        values = list(row)
        for place in self._instants:
            if values[place] is not None:
                values[place] = sortable(values[place])
        return values


def _execute(connection: Connection, statement: str, values: Sequence[Any]) -> Sequence[Row]:
    """On SQLite, past SQLAlchemy, which takes as long for a statement as SQLite does.

    Who listens to the statements of the engine hears of it. What fails is as the driver raises it.
    """
    for listener in connection.dispatch.before_cursor_execute:
        listener(connection, None, statement, values, None, False)
    driver: Any = connection.connection.driver_connection
    found: Sequence[Row] = driver.execute(statement, values).fetchall()
    return found


@contextmanager
def deferred_writes(connection: Connection) -> Generator[None]:
    """What is written within it is written at its end: on PostgreSQL as one statement, so in one round trip.

    None of them sees what another writes. `flush` ends it early for who has to read.
    """
    noted = connection.info  # a connection that is lost has none to give, and would say so in place of its loss
    noted[_TOGETHER] = []
    try:
        yield
        flush(connection)
    finally:
        noted.pop(_TOGETHER, None)


def flush(connection: Connection) -> None:
    """Write what waits for the end of `together`."""
    waiting = connection.info.get(_TOGETHER)
    if waiting:
        connection.info[_TOGETHER] = []
        _write(connection, waiting)


def _write(connection: Connection, statements: Sequence[tuple[Bulk, Sequence[Row]]]) -> None:
    if connection.dialect.name != "postgresql":
        for bulk, rows in statements:
            bulk.run(connection, rows)
        return
    text = _combined(connection.dialect, tuple(bulk for bulk, _ in statements))
    connection.exec_driver_sql(text, tuple(chain.from_iterable(bulk.arrays(rows) for bulk, rows in statements)))


@lru_cache(maxsize=256)
def _combined(dialect: Dialect, bulks: tuple[Bulk, ...]) -> str:
    """One statement of PostgreSQL that does what all of these do, with their parameters one after the other."""
    parts, used = [], 0
    for number, bulk in enumerate(bulks):
        shifted = partial(_shifted, by=used)
        parts.append(f"s{number} AS ({_PARAMETER.sub(shifted, bulk.text(dialect))})")
        used += len(bulk.columns)
    return f"WITH {', '.join(parts)} SELECT {', '.join(bulk.then for bulk in bulks)}"


def _shifted(parameter: re.Match[str], by: int) -> str:
    return f"${int(parameter[1]) + by}"


class BulkRead(Bulk):
    """A statement that reads, for any number of rows; nothing that it finds is bytes.

    On SQLite all that it finds is one document, because each row would be a step of the engine.
    """

    def find(self, connection: Connection, rows: Sequence[Row]) -> Sequence[Row]:
        """What it finds, as the driver gives it; instants and JSON are text on SQLite."""
        found = self.run(connection, rows)
        if connection.dialect.name == "postgresql":
            return found
        document: Sequence[Row] = json.loads(found[0][0])
        return document

    def _statement(self, dialect: Dialect, room: int) -> ClauseElement:
        statement = super()._statement(dialect, room)
        if not room:
            return statement
        assert isinstance(statement, Select)  # noqa: S101 - it reads
        found = statement.subquery()
        return select(func.json_group_array(func.json_array(*found.c)))


def _values(columns: Types, room: int) -> FromClause:
    row = f"({', '.join('?' * len(columns))})"
    named = ", ".join(f"column{number} AS {name}" for number, name in enumerate(columns, 1))
    relation = f"SELECT {named} FROM (VALUES {', '.join([row] * room)}) WHERE column1 IS NOT NULL"  # noqa: S608
    typed = [column(name, kind) for name, kind in columns.items()]
    return text(relation).columns(*typed).subquery("given")


def _unnested(columns: Types) -> FromClause:
    """JSON comes as text, which is cast."""
    arrays = [bindparam(name, type_=ARRAY(_sent(kind))) for name, kind in columns.items()]
    named = [column(name, _sent(kind)) for name, kind in columns.items()]
    raw = func.unnest(*arrays).table_valued(*named, name="raw").render_derived()
    typed = [
        cast(raw.c[name], kind).label(name) if isinstance(kind, JSON) else raw.c[name] for name, kind in columns.items()
    ]
    return select(*typed).subquery("given")


def _sent(kind: TypeEngine[Any]) -> TypeEngine[Any]:
    return Text() if isinstance(kind, JSON) else kind
