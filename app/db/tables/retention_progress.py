"""The table `retention_progress`: how far retention has come, for each application and class of data.

Retention follows the ends of an application's tasks, so that what it leaves is not read again by each sweep.
"""

from datetime import UTC, datetime
from typing import NamedTuple

from sqlalchemy import Column, ColumnElement, Connection, String, Table, select, update

from app.db.engine.columns import Instant, insert_into, metadata

retention_progress = Table(
    "retention_progress",
    metadata,
    Column("application_id", String(48), primary_key=True),  # or EVERY
    Column("data", String(16), primary_key=True),  # a class of data, or another list that retention follows
    Column("ended_at", Instant, nullable=False),
    Column("subject", String(48), nullable=False),  # the id of the task, or of another row
)

EVERY = "*"  # the application of a list of all applications


class Position(NamedTuple):
    """The last task that was examined: when it ended, and its id."""

    ended_at: datetime
    subject: str


START = Position(datetime.min.replace(tzinfo=UTC), "")  # before all tasks


def lock(connection: Connection, application_id: str, data: str) -> Position:
    """Return how far retention has come, locked until the transaction ends. Rows are never deleted."""
    row = {"application_id": application_id, "data": data, **START._asdict()}
    connection.execute(insert_into(retention_progress, connection.dialect.name).values(row).on_conflict_do_nothing())
    columns = (retention_progress.c.ended_at, retention_progress.c.subject)
    found = connection.execute(select(*columns).where(*_of(application_id, data)).with_for_update()).one()
    return Position(found.ended_at, found.subject)


def advance(connection: Connection, application_id: str, data: str, to: Position) -> None:
    """Record that all tasks up to this one were examined. The caller must hold the row's lock."""
    connection.execute(update(retention_progress).where(*_of(application_id, data)).values(to._asdict()))


def _of(application_id: str, data: str) -> tuple[ColumnElement[bool], ...]:
    return (retention_progress.c.application_id == application_id, retention_progress.c.data == data)
