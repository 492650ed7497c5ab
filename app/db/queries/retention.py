"""What was said of tasks that ended long ago, found by indexes that are there anyway and deleted batch by batch.

An id sorts by its creation, so the primary key finds what is old of evidence and downloads. No table is locked.
"""

from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, Table, and_, delete, func, select

from app import ids
from app.db.tables.attempts import submissions
from app.db.tables.deliveries import State, deliveries
from app.db.tables.delivery_attempts import attempts
from app.db.tables.downloads import downloads
from app.db.tables.evidence import evidence
from app.db.tables.tasks import tasks
from app.rules.task import Status

_ENDED_AT = func.coalesce(tasks.c.stored_at, tasks.c.failed_at, tasks.c.cancelled_at)
_FINAL = tasks.c.status.in_([status for status in Status if status.final])


class Looked(NamedTuple):
    """What became of one batch."""

    deleted: int
    on: str | None  # where the next one begins; None when this was the last


def forget_evidence(connection: Connection, ended_before: datetime, after: str, limit: int) -> Looked:
    """Delete evidence of tasks that ended before then, among the `limit` oldest rows that come after this id."""
    of_task = evidence.join(submissions, submissions.c.id == evidence.c.submission_id).join(
        tasks, tasks.c.id == submissions.c.task_id
    )
    query = select(evidence.c.id, _is_over(ended_before)).select_from(of_task)
    return _forget(connection, evidence, _range(query, evidence, "ev", ended_before, after, limit))


def forget_downloads(connection: Connection, ended_before: datetime, after: str, limit: int) -> Looked:
    """The same of what was noted about downloads."""
    query = select(downloads.c.id, _is_over(ended_before)).join(tasks, tasks.c.id == downloads.c.task_id)
    return _forget(connection, downloads, _range(query, downloads, "dl", ended_before, after, limit))


def forget_deliveries(connection: Connection, ended_before: datetime, after: str, limit: int) -> Looked:
    """Delete deliveries that ended before then, `limit` at most, with their attempts.

    Found by when they ended, so those that wait, however many, are not looked at; and all that is found goes.
    """
    found: list[str] = []
    for state in (State.DELIVERED, State.FAILED):
        found += connection.execute(_ended(state, ended_before, limit - len(found))).scalars()
    connection.execute(delete(attempts).where(attempts.c.delivery_id.in_(found)))
    connection.execute(delete(deliveries).where(deliveries.c.id.in_(found)))
    return Looked(len(found), after if len(found) == limit else None)


def _ended(state: State, before: datetime, limit: int) -> Select[Any]:
    which = (deliveries.c.state == state, deliveries.c.ended_at < before)
    return select(deliveries.c.id).where(*which).order_by(deliveries.c.ended_at).limit(limit)


def _is_over(ended_before: datetime) -> ColumnElement[bool]:
    return and_(_FINAL, ended_before > _ENDED_AT).label("over")


def _range(
    query: Select[Any], table: Table, prefix: str, ended_before: datetime, after: str, limit: int
) -> Select[Any]:
    old = (table.c.id > after, table.c.id < ids.first_at(prefix, ended_before))
    return query.where(*old).order_by(table.c.id).limit(limit)


def _forget(connection: Connection, table: Table, query: Select[Any]) -> Looked:
    """Delete what the query says is over."""
    rows = connection.execute(query).all()
    over = [row.id for row in rows if row.over]
    connection.execute(delete(table).where(table.c.id.in_(over)))
    return Looked(len(over), rows[-1].id if rows else None)
