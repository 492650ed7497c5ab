"""The table `events`: the append-only feed of what happens to tasks, in the order of `db.engine.feed_order`."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    ClauseElement,
    Column,
    Connection,
    FromClause,
    Index,
    Integer,
    Row,
    Select,
    String,
    Table,
    delete,
    select,
    tuple_,
    update,
)

from app.db.engine.bulk import Bulk, DeferredWrites
from app.db.engine.columns import Instant, Json, metadata
from app.db.engine.commit_hooks import EVENTS, notify_after_commit
from app.db.engine.feed_order import START, Position, as_row, is_settled, is_shared, next_xid, own_xid
from app.db.tables import applications
from app.db.tables.tasks import APPLICATION, tasks
from app.rules.json_value import JsonObject

CHANNEL = "fluxhook_events"  # the PostgreSQL channel that notifies every process of new events
BUDGET_WARNING = "budget.warning"  # the only kind that is no move of its task
_FLOOR = "feed.floor"  # the kind of the one row that marks the end of the pruned part; readers never see it

events = Table(
    "events",
    metadata,
    Column("sequence", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("xid", BigInteger, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("task_id", String(48), nullable=False),
    Column("key_id", String(48), nullable=False),
    Column("application_id", String(48)),  # NULL in rows of earlier versions, see `applications.of`
    Column("data", Json, nullable=False),
    Column("at", Instant, nullable=False, index=True),
    sqlite_autoincrement=True,
)
Index("ix_events_xid_sequence", events.c.xid, events.c.sequence)
Index("ix_events_task_id_xid_sequence", events.c.task_id, events.c.xid, events.c.sequence)
Index("ix_events_application_xid_sequence", applications.of(events), events.c.xid, events.c.sequence)
_position = tuple_(events.c.xid, events.c.sequence)


@dataclass(frozen=True, slots=True)
class Event:
    position: Position
    kind: str
    task_id: str
    at: datetime
    application_id: str
    data: JsonObject = field(hash=False)
    # Of the task, as they are when the event is read: the feed itself holds nothing that a client sent.
    user: str | None = field(default=None, repr=False)
    metadata: Mapping[str, str] = field(default_factory=dict, hash=False, repr=False)


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
    if not is_shared(writes.connection.dialect.name):
        notify_after_commit(writes.connection, EVENTS)


def _insert_events(relation: FromClause, dialect: str) -> ClauseElement:
    """Insert in the order of the rows. Scalar subqueries find the owner, because a join could change that order."""
    owner = (select(column).where(tasks.c.id == relation.c.task_id) for column in (tasks.c.key_id, APPLICATION))
    key_id, application_id = (query.scalar_subquery() for query in owner)
    columns = [*(relation.c[name] for name in NewEvent._fields), key_id, application_id, own_xid(dialect)]
    return events.insert().from_select([*NewEvent._fields, "key_id", "application_id", "xid"], select(*columns))


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
    owner: str | None = None,
) -> Page:
    """Return settled events after a position: all, or only those of one task, of some kinds or of an application."""
    query = (
        select(
            events, is_settled(events.c.xid, connection.dialect.name).label("settled"), tasks.c.user, tasks.c.metadata
        )
        .outerjoin_from(events, tasks, tasks.c.id == events.c.task_id)
        .where(_position > as_row(after), events.c.kind != _FLOOR)
        .order_by(events.c.xid, events.c.sequence)
        .limit(limit)
    )
    if task_id is not None:
        query = query.where(events.c.task_id == task_id)
    if kinds:
        query = query.where(events.c.kind.in_(kinds))
    if owner is not None and task_id is None:
        query = query.where(applications.of(events) == owner)
    rows = connection.execute(query).all()
    settled = [_event_of(row) for row in rows if row.settled]
    full = len(settled) == limit
    end = settled[-1].position if settled else after
    if not full and (task_id is not None or kinds or owner is not None):
        end = max(end, head(connection))  # events that the filter left out are not read again
    # All events of a task belong to one application. In the query, the condition could make the planner follow those of
    # the application instead.
    pending = [event for event in map(_event_of, rows[len(settled) :][:1]) if owner in {None, event.application_id}]
    settled = [event for event in settled if owner in {None, event.application_id}]
    return Page(settled, end, full=full, pending=pending[0] if pending else None)


def head(connection: Connection) -> Position:
    """Return the position of the last settled event."""
    query = select(events.c.xid, events.c.sequence).where(is_settled(events.c.xid, connection.dialect.name))
    return _first(connection, query.order_by(events.c.xid.desc(), events.c.sequence.desc())) or START


def pending_since(connection: Connection, owner: str | None = None) -> datetime | None:
    """Return when the oldest event was written that is committed but not settled yet; None without one.

    `owner`: only events of this application.
    """
    if not is_shared(connection.dialect.name):
        return None
    query = select(events.c.at).where(~is_settled(events.c.xid, connection.dialect.name), events.c.kind != _FLOOR)
    if owner is not None:
        query = query.where(applications.of(events) == owner)
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


def prune(connection: Connection, before: datetime) -> None:
    """Delete events older than `before`. Call it before the transaction appends any."""
    if is_shared(connection.dialect.name):
        _restart_after_server_change(connection, before)
    query = select(events.c.xid, events.c.sequence, events.c.kind).where(events.c.at < before)
    newest = connection.execute(query.order_by(events.c.at.desc(), events.c.sequence.desc()).limit(1)).one_or_none()
    if newest is None or newest.kind == _FLOOR:
        return
    connection.execute(delete(events).where(_position < as_row(Position(newest.xid, newest.sequence))))
    connection.execute(update(events).where(events.c.sequence == newest.sequence).values(kind=_FLOOR))


def _restart_after_server_change(connection: Connection, at: datetime) -> None:
    """Empty the feed if it was restored from a server whose transaction ids are ahead of this server's."""
    if _first(connection, select(events.c.xid, events.c.sequence).where(events.c.xid >= next_xid())) is None:
        return
    connection.execute(delete(events))
    row = {"kind": _FLOOR, "task_id": "", "key_id": "", "data": {}, "at": at}
    connection.execute(events.insert().values(xid=own_xid(connection.dialect.name), **row))


def _first(connection: Connection, query: Select[Any]) -> Position | None:
    row = connection.execute(query.limit(1)).one_or_none()
    return None if row is None else Position(row.xid, row.sequence)


def _event_of(row: Row[Any]) -> Event:
    return Event(
        position=Position(row.xid, row.sequence),
        kind=row.kind,
        task_id=row.task_id,
        at=row.at,
        application_id=row.application_id or applications.id_of_key(row.key_id),
        data=row.data,
        user=getattr(row, "end_user", None),
        metadata=getattr(row, "metadata", None) or {},
    )
