"""The table `events`: the append-only feed of what happens to tasks.

A sequence number is not a safe cursor: a lower number can commit after a reader has passed it. On PostgreSQL an event
also carries the id of its transaction (`xid`) and is settled, that is visible to readers, once every transaction with a
lower or equal id has ended. From then on no event can appear before it in the order of (xid, sequence). SQLite has one
writer; there `xid` is 0 and every committed event is settled.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    ClauseElement,
    Column,
    ColumnElement,
    Connection,
    FromClause,
    Index,
    Integer,
    Row,
    Select,
    String,
    Table,
    Text,
    cast,
    delete,
    func,
    literal,
    literal_column,
    select,
    true,
    tuple_,
    update,
)

from app.db.engine.bulk import Bulk, DeferredWrites
from app.db.engine.columns import Instant, Json, metadata
from app.db.engine.commit_hooks import EVENTS, notify_after_commit
from app.db.tables.tasks import tasks
from app.rules.json_value import JsonObject

CHANNEL = "fluxhook_events"  # the PostgreSQL channel that notifies every process of new events
_FLOOR = "feed.floor"  # the kind of the one row that marks the end of the pruned part; readers never see it
_CURSOR = re.compile(r"([0-9a-f]{1,16})-([0-9a-f]{1,16})")
_LARGEST = 2**63 - 1

events = Table(
    "events",
    metadata,
    Column("sequence", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("xid", BigInteger, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("task_id", String(48), nullable=False),
    Column("key_id", String(48), nullable=False),
    Column("data", Json, nullable=False),
    Column("at", Instant, nullable=False, index=True),
    sqlite_autoincrement=True,
)
Index("ix_events_xid_sequence", events.c.xid, events.c.sequence)
Index("ix_events_task_id_xid_sequence", events.c.task_id, events.c.xid, events.c.sequence)
_position = tuple_(events.c.xid, events.c.sequence)


class Position(NamedTuple):
    """A place in the feed: everything up to it has been read. Its text form is an opaque cursor."""

    xid: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.xid:x}-{self.sequence:x}"

    @classmethod
    def of(cls, text: str) -> "Position | None":
        """Parse a cursor; None if the text is not one."""
        match = _CURSOR.fullmatch(text)
        position = cls(*(int(part, 16) for part in match.groups())) if match else None
        return position if position is not None and max(position) <= _LARGEST else None


START = Position(0, 0)


@dataclass(frozen=True, slots=True)
class Event:
    position: Position
    kind: str
    task_id: str
    at: datetime
    data: JsonObject = field(hash=False)


@dataclass(frozen=True, slots=True)
class Page:
    """Settled events, oldest first."""

    events: Sequence[Event]
    end: Position  # the position to continue after
    full: bool  # more settled events may follow
    pending: Event | None  # the next event, committed but not settled yet; no notification follows when it is


class NewEvent(NamedTuple):
    kind: str
    task_id: str
    data: str  # as JSON
    at: datetime


def append(writes: DeferredWrites, new_events: Sequence[NewEvent]) -> None:
    """Append events, in this order. Readers are notified after the commit."""
    if not new_events:
        return
    writes.add(_APPEND, new_events)
    if not _is_shared(writes.connection):
        notify_after_commit(writes.connection, EVENTS)


def _insert_events(relation: FromClause, dialect: str) -> ClauseElement:
    """Insert in the order of the rows. A scalar subquery finds the key, because a join could change that order."""
    shared = dialect == "postgresql"
    key_id = select(tasks.c.key_id).where(tasks.c.id == relation.c.task_id).scalar_subquery()
    xid = _number(func.pg_current_xact_id()) if shared else literal_column("0", Integer)
    columns = [*(relation.c[name] for name in NewEvent._fields), key_id, xid]
    return events.insert().from_select([*NewEvent._fields, "key_id", "xid"], select(*columns))


_APPEND = Bulk(
    {name: events.c[name].type for name in NewEvent._fields}, _insert_events, then=f"pg_notify('{CHANNEL}', '')"
)


def following(
    connection: Connection,
    after: Position,
    limit: int,
    *,
    task_id: str | None = None,
    kinds: Collection[str] = (),
) -> Page:
    """Return settled events after a position: all, or only those of one task or of some kinds."""
    query = (
        select(events, _is_settled(connection).label("settled"))
        .where(_position > _literal(after), events.c.kind != _FLOOR)
        .order_by(events.c.xid, events.c.sequence)
        .limit(limit)
    )
    if task_id is not None:
        query = query.where(events.c.task_id == task_id)
    if kinds:
        query = query.where(events.c.kind.in_(kinds))
    rows = connection.execute(query).all()
    settled = [_event_of(row) for row in rows if row.settled]
    full = len(settled) == limit
    end = settled[-1].position if settled else after
    if not full and (task_id is not None or kinds):
        end = max(end, head(connection))  # events that the filter left out are not read again
    pending = rows[len(settled) :]
    return Page(settled, end, full=full, pending=_event_of(pending[0]) if pending else None)


def head(connection: Connection) -> Position:
    """Return the position of the last settled event."""
    query = select(events.c.xid, events.c.sequence).where(_is_settled(connection))
    return _first(connection, query.order_by(events.c.xid.desc(), events.c.sequence.desc())) or START


def pending_since(connection: Connection) -> datetime | None:
    """Return when the oldest event was written that is committed but not settled yet; None without one."""
    if not _is_shared(connection):
        return None
    query = select(events.c.at).where(~_is_settled(connection), events.c.kind != _FLOOR)
    at: datetime | None = connection.execute(
        query.order_by(events.c.xid, events.c.sequence).limit(1)
    ).scalar_one_or_none()
    return at


def last_of_task(connection: Connection, task_id: str) -> Event | None:
    """Return the newest event of a task, settled or not."""
    newest_first = (events.c.xid.desc(), events.c.sequence.desc())
    query = select(events).where(events.c.task_id == task_id, events.c.kind != _FLOOR).order_by(*newest_first).limit(1)
    row = connection.execute(query).one_or_none()
    return None if row is None else _event_of(row)


def is_kept(connection: Connection, after: Position) -> bool:
    """Return whether all events after this position are still stored.

    False also for a position past the end, which belongs to another feed.
    """
    return beginning(connection) <= after <= head(connection)


def beginning(connection: Connection) -> Position:
    """Return the position before the oldest stored event."""
    query = select(events.c.xid, events.c.sequence, events.c.kind).order_by(events.c.xid, events.c.sequence).limit(1)
    oldest = connection.execute(query).one_or_none()
    return START if oldest is None or oldest.kind != _FLOOR else Position(oldest.xid, oldest.sequence)


def starts_at(connection: Connection) -> datetime | None:
    """Return when the oldest stored event was written."""
    query = select(events.c.at).where(events.c.kind != _FLOOR).order_by(events.c.xid, events.c.sequence).limit(1)
    at: datetime | None = connection.execute(query).scalar_one_or_none()
    return at


def prune(connection: Connection, before: datetime) -> None:
    """Delete events older than `before`. Call it before the transaction appends any."""
    if _is_shared(connection):
        _restart_after_server_change(connection, before)
    query = select(events.c.xid, events.c.sequence, events.c.kind).where(events.c.at < before)
    newest = connection.execute(query.order_by(events.c.at.desc(), events.c.sequence.desc()).limit(1)).one_or_none()
    if newest is None or newest.kind == _FLOOR:
        return
    connection.execute(delete(events).where(_position < _literal(Position(newest.xid, newest.sequence))))
    connection.execute(update(events).where(events.c.sequence == newest.sequence).values(kind=_FLOOR))


def _restart_after_server_change(connection: Connection, at: datetime) -> None:
    """Empty the feed if it was restored from a server whose transaction ids are ahead of this server's."""
    next_xid = _number(func.pg_snapshot_xmax(func.pg_current_snapshot()))
    if _first(connection, select(events.c.xid, events.c.sequence).where(events.c.xid >= next_xid)) is None:
        return
    connection.execute(delete(events))
    row = {"kind": _FLOOR, "task_id": "", "key_id": "", "data": {}, "at": at}
    connection.execute(events.insert().values(xid=_own_xid(connection), **row))


def _literal(position: Position) -> ColumnElement[Any]:
    return tuple_(*(literal(number, BigInteger) for number in position))


def _first(connection: Connection, query: Select[Any]) -> Position | None:
    row = connection.execute(query.limit(1)).one_or_none()
    return None if row is None else Position(row.xid, row.sequence)


def _event_of(row: Row[Any]) -> Event:
    return Event(Position(row.xid, row.sequence), row.kind, row.task_id, row.at, row.data)


def _is_shared(connection: Connection) -> bool:
    """Whether several processes can write to the feed at the same time."""
    return connection.dialect.name == "postgresql"


def _own_xid(connection: Connection) -> ColumnElement[int]:
    return _number(func.pg_current_xact_id()) if _is_shared(connection) else literal_column("0", Integer)


def _is_settled(connection: Connection) -> ColumnElement[bool]:
    """Whether every transaction with an id up to the event's has ended. Transactions without writes have no id."""
    if not _is_shared(connection):
        return true()
    return events.c.xid < _number(func.pg_snapshot_xmin(func.pg_current_snapshot()))


def _number(xid: ColumnElement[Any]) -> ColumnElement[int]:
    """Cast a transaction id to bigint. PostgreSQL has no direct cast."""
    return cast(cast(xid, Text), BigInteger)
