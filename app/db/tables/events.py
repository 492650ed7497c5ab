"""The table `events`: what became of tasks, as a feed that is only ever appended to.

A number alone is no place in a feed that many transactions write: the lower one may be committed after a reader has
passed it. On PostgreSQL an event also carries its transaction's id, and is settled, that is seen by readers, once
every transaction with a lower or equal id has ended: in the order of (xid, sequence) nothing comes behind it then.
SQLite has one writer; there `xid` is 0, and whatever is committed is settled.
"""

import re
from collections.abc import Collection, Mapping, Sequence
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

from app.db.engine.bulk import Bulk
from app.db.engine.columns import Instant, Json, metadata
from app.db.engine.commit_hooks import EVENTS, notify_after_commit
from app.db.tables.tasks import tasks

CHANNEL = "fluxhook_events"  # on which PostgreSQL tells every process of new ones
_FLOOR = "feed.floor"  # the kind of the one row that stands for what was pruned; no reader sees it
_FORM = re.compile(r"([0-9a-f]{1,16})-([0-9a-f]{1,16})")
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
    """A place in the feed: everything up to it was seen. Written as text it is a cursor, whose form is nobody's."""

    xid: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.xid:x}-{self.sequence:x}"

    @classmethod
    def of(cls, text: str) -> "Position | None":
        match = _FORM.fullmatch(text)
        position = cls(*(int(part, 16) for part in match.groups())) if match else None
        return position if position is not None and max(position) <= _LARGEST else None


START = Position(0, 0)


@dataclass(frozen=True, slots=True)
class Event:
    position: Position
    kind: str
    task_id: str
    at: datetime
    data: Mapping[str, Any] = field(hash=False)


@dataclass(frozen=True, slots=True)
class Page:
    """Settled events, the oldest first."""

    events: Sequence[Event]
    end: Position  # where the next page begins
    full: bool  # there may be more at once
    pending: bool  # others are committed and not settled yet: nobody will say when they are


def append(connection: Connection, rows: Sequence[tuple[str, str, str, datetime]]) -> None:
    """Add to the feed, in this order: kind, task id, data as JSON, and time. Readers are told after the commit."""
    if not rows:
        return
    _APPEND.write(connection, rows)
    if not _shared(connection):
        notify_after_commit(connection, EVENTS)


def _append(given: FromClause, dialect: str) -> ClauseElement:
    """In the order of the rows: neither relation is sorted or joined, so each is read as it came."""
    shared = dialect == "postgresql"
    key_id = select(tasks.c.key_id).where(tasks.c.id == given.c.task_id).scalar_subquery()
    xid = _number(func.pg_current_xact_id()) if shared else literal_column("0", Integer)
    columns = [*(given.c[name] for name in _GIVEN), key_id, xid]
    return events.insert().from_select([*_GIVEN, "key_id", "xid"], select(*columns))


_GIVEN = ("kind", "task_id", "data", "at")
_APPEND = Bulk({name: events.c[name].type for name in _GIVEN}, _append, then=f"pg_notify('{CHANNEL}', '')")


def following(
    connection: Connection,
    after: Position,
    limit: int,
    *,
    task_id: str | None = None,
    kinds: Collection[str] = (),
) -> Page:
    """The settled events after a position: all, or those of a task or of some kinds."""
    query = (
        select(events, _is_settled(connection).label("settled"))
        .where(_position > _place(after), events.c.kind != _FLOOR)
        .order_by(events.c.xid, events.c.sequence)
        .limit(limit)
    )
    if task_id is not None:
        query = query.where(events.c.task_id == task_id)
    if kinds:
        query = query.where(events.c.kind.in_(kinds))
    rows = connection.execute(query).all()
    found = [_event_of(row._asdict()) for row in rows if row.settled]
    full = len(found) == limit
    end = found[-1].position if found else after
    if not full and (task_id is not None or kinds):
        end = max(end, head(connection))  # what was left out need not be looked through again
    return Page(found, end, full=full, pending=len(found) < len(rows))


def head(connection: Connection) -> Position:
    """The end of what is settled."""
    query = select(events.c.xid, events.c.sequence).where(_is_settled(connection))
    return _first(connection, query.order_by(events.c.xid.desc(), events.c.sequence.desc())) or START


def last_of_task(connection: Connection, task_id: str) -> Event | None:
    """The newest event of a task, settled or not."""
    newest_first = (events.c.xid.desc(), events.c.sequence.desc())
    query = select(events).where(events.c.task_id == task_id, events.c.kind != _FLOOR).order_by(*newest_first).limit(1)
    row = connection.execute(query).one_or_none()
    return None if row is None else _event_of(row._asdict())


def is_kept(connection: Connection, after: Position) -> bool:
    """Whether everything that came after this position is still there. A position past the end is of another feed."""
    return beginning(connection) <= after <= head(connection)


def beginning(connection: Connection) -> Position:
    """The place before the oldest event that is kept."""
    query = select(events.c.xid, events.c.sequence, events.c.kind).order_by(events.c.xid, events.c.sequence).limit(1)
    oldest = connection.execute(query).one_or_none()
    return START if oldest is None or oldest.kind != _FLOOR else Position(oldest.xid, oldest.sequence)


def starts_at(connection: Connection) -> datetime | None:
    """When the oldest event that is kept was written."""
    query = select(events.c.at).where(events.c.kind != _FLOOR).order_by(events.c.xid, events.c.sequence).limit(1)
    at: datetime | None = connection.execute(query).scalar_one_or_none()
    return at


def prune(connection: Connection, before: datetime) -> None:
    """Forget what is older. Call it before anything is appended in this transaction."""
    if _shared(connection):
        _forget_other_server(connection, before)
    query = select(events.c.xid, events.c.sequence, events.c.kind).where(events.c.at < before)
    newest = connection.execute(query.order_by(events.c.at.desc(), events.c.sequence.desc()).limit(1)).one_or_none()
    if newest is None or newest.kind == _FLOOR:
        return
    connection.execute(delete(events).where(_position < _place(Position(newest.xid, newest.sequence))))
    connection.execute(update(events).where(events.c.sequence == newest.sequence).values(kind=_FLOOR))


def _forget_other_server(connection: Connection, at: datetime) -> None:
    """Begin anew when rows came with a dump from a server that counted its transactions further than this one."""
    next_xid = _number(func.pg_snapshot_xmax(func.pg_current_snapshot()))
    if _first(connection, select(events.c.xid, events.c.sequence).where(events.c.xid >= next_xid)) is None:
        return
    connection.execute(delete(events))
    row = {"kind": _FLOOR, "task_id": "", "key_id": "", "data": {}, "at": at}
    connection.execute(events.insert().values(xid=_own_xid(connection), **row))


def _place(position: Position) -> ColumnElement[Any]:
    return tuple_(*(literal(number, BigInteger) for number in position))


def _first(connection: Connection, query: Select[Any]) -> Position | None:
    row = connection.execute(query.limit(1)).one_or_none()
    return None if row is None else Position(*row)


def _event_of(row: Mapping[str, Any]) -> Event:
    return Event(Position(row["xid"], row["sequence"]), row["kind"], row["task_id"], row["at"], row["data"])


def _shared(connection: Connection) -> bool:
    return connection.dialect.name == "postgresql"


def _own_xid(connection: Connection) -> ColumnElement[int]:
    return _number(func.pg_current_xact_id()) if _shared(connection) else literal_column("0", Integer)


def _is_settled(connection: Connection) -> ColumnElement[bool]:
    """Whether every transaction up to an event's own has ended; those that wrote nothing do not count."""
    if not _shared(connection):
        return true()
    return events.c.xid < _number(func.pg_snapshot_xmin(func.pg_current_snapshot()))


def _number(xid: ColumnElement[Any]) -> ColumnElement[int]:
    """A transaction's id as a plain number: there is no shorter cast."""
    return cast(cast(xid, Text), BigInteger)
