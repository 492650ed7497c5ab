"""The order of the feed of events: positions in it, and which events are settled.

A sequence number is not a safe cursor: a lower number can commit after a reader has passed it. On PostgreSQL an event
also carries the id of its transaction (`xid`) and is settled, that is visible to readers, once every transaction with a
lower or equal id has ended. From then on no event can appear before it in the order of (xid, sequence). SQLite has one
writer; there `xid` is 0 and every committed event is settled.
"""

from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Integer,
    Text,
    cast,
    func,
    literal,
    literal_column,
    true,
    tuple_,
)


class Position(NamedTuple):
    """A place in the feed: everything up to it has been read."""

    xid: int
    sequence: int


START = Position(0, 0)


def as_row(position: Position) -> ColumnElement[Any]:
    """Return a position as a row value, to be compared with the columns `xid` and `sequence`."""
    return tuple_(*(literal(number, BigInteger) for number in position))


def is_shared(dialect: str) -> bool:
    """Whether several processes can write to the feed at the same time."""
    return dialect == "postgresql"


def own_xid(dialect: str) -> ColumnElement[int]:
    """Return the expression for the id of the running transaction."""
    return _number(func.pg_current_xact_id()) if is_shared(dialect) else literal_column("0", Integer)


def next_xid() -> ColumnElement[int]:
    """Return the expression for the lowest id that no transaction of this PostgreSQL server has had yet."""
    return _number(func.pg_snapshot_xmax(func.pg_current_snapshot()))


def is_settled(xid: ColumnElement[int], dialect: str) -> ColumnElement[bool]:
    """Whether every transaction with an id up to the event's has ended. Transactions without writes have no id."""
    if not is_shared(dialect):
        return true()
    return xid < _number(func.pg_snapshot_xmin(func.pg_current_snapshot()))


def _number(xid: ColumnElement[Any]) -> ColumnElement[int]:
    """Cast a transaction id to bigint. PostgreSQL has no direct cast."""
    return cast(cast(xid, Text), BigInteger)
