"""The table `events`: what became of tasks, as a feed that is only ever appended to.

A number alone is no place in a feed that many transactions write: the lower one may be committed after a reader has
passed it. On PostgreSQL an event also carries its transaction's id, and readers see it only once every transaction
with a lower or equal id has ended; in the order of (xid, sequence) nothing is added behind them. SQLite has one
writer, and there `xid` is 0.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Index,
    Integer,
    String,
    Table,
    Text,
    bindparam,
    cast,
    func,
    literal_column,
    select,
)

from app.record.columns import Instant, Json, metadata
from app.record.signals import EVENTS, signal_after_commit
from app.record.tasks import tasks

CHANNEL = "fluxhook_events"  # on which PostgreSQL tells every process of new ones

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


def append(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add to the feed, in this order, rows of `kind`, `task_id`, `data` and `at`; readers are told after the commit."""
    if not rows:
        return
    key_id = select(tasks.c.key_id).where(tasks.c.id == bindparam("of_task")).scalar_subquery()
    connection.execute(
        events.insert().values(xid=_own_xid(connection), key_id=key_id),
        [{**row, "of_task": row["task_id"]} for row in rows],
    )
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_notify(CHANNEL, "")))
    else:
        signal_after_commit(connection, EVENTS)


def _own_xid(connection: Connection) -> ColumnElement[int]:
    if connection.dialect.name == "postgresql":
        return _number(func.pg_current_xact_id())
    return literal_column("0", Integer)


def _number(xid: ColumnElement[Any]) -> ColumnElement[int]:
    """A transaction's id as a plain number: there is no shorter cast."""
    return cast(cast(xid, Text), BigInteger)
