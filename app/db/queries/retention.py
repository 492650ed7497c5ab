"""Deletes expired evidence, downloads and deliveries in batches. No table is locked, and no index exists only for this.

Ids sort by creation time, so the primary key finds old evidence and downloads.
"""

from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, Table, and_, delete, func, select

from app import ids
from app.db.tables.attempts import attempts
from app.db.tables.deliveries import DeliveryState, deliveries
from app.db.tables.delivery_attempts import delivery_attempts
from app.db.tables.downloads import downloads
from app.db.tables.evidence import evidence
from app.db.tables.tasks import tasks
from app.rules.task import Status

_ENDED_AT = func.coalesce(tasks.c.stored_at, tasks.c.failed_at, tasks.c.cancelled_at)
_FINAL = tasks.c.status.in_([status for status in Status if status.final])


class PrunedBatch(NamedTuple):
    """The result of one batch."""

    deleted: int
    next_after: str | None  # `after` of the next batch; None if this batch was the last


def prune_evidence(connection: Connection, ended_before: datetime, after: str, limit: int) -> PrunedBatch:
    """Delete evidence of tasks that ended before `ended_before`, among the next `limit` rows after the id `after`."""
    with_task = evidence.join(attempts, attempts.c.id == evidence.c.attempt_id).join(
        tasks, tasks.c.id == attempts.c.task_id
    )
    query = select(evidence.c.id, _is_over(ended_before)).select_from(with_task)
    return _delete_over(connection, evidence, _next_rows(query, evidence, "ev", ended_before, after, limit))


def prune_downloads(connection: Connection, ended_before: datetime, after: str, limit: int) -> PrunedBatch:
    """Delete downloads as `prune_evidence` deletes evidence."""
    query = select(downloads.c.id, _is_over(ended_before)).join(tasks, tasks.c.id == downloads.c.task_id)
    return _delete_over(connection, downloads, _next_rows(query, downloads, "dl", ended_before, after, limit))


def prune_deliveries(connection: Connection, ended_before: datetime, after: str, limit: int) -> PrunedBatch:
    """Delete deliveries that ended before `ended_before`, `limit` at most, with their attempts.

    An index by end time finds them, so waiting deliveries are not read.
    """
    delivery_ids: list[str] = []
    for state in (DeliveryState.DELIVERED, DeliveryState.FAILED):
        delivery_ids += connection.execute(_ended_ids(state, ended_before, limit - len(delivery_ids))).scalars()
    connection.execute(delete(delivery_attempts).where(delivery_attempts.c.delivery_id.in_(delivery_ids)))
    connection.execute(delete(deliveries).where(deliveries.c.id.in_(delivery_ids)))
    return PrunedBatch(len(delivery_ids), after if len(delivery_ids) == limit else None)


def _ended_ids(state: DeliveryState, before: datetime, limit: int) -> Select[Any]:
    conditions = (deliveries.c.state == state, deliveries.c.ended_at < before)
    return select(deliveries.c.id).where(*conditions).order_by(deliveries.c.ended_at).limit(limit)


def _is_over(ended_before: datetime) -> ColumnElement[bool]:
    return and_(_FINAL, ended_before > _ENDED_AT).label("over")


def _next_rows(
    query: Select[Any], table: Table, prefix: str, ended_before: datetime, after: str, limit: int
) -> Select[Any]:
    in_range = (table.c.id > after, table.c.id < ids.first_at(prefix, ended_before))
    return query.where(*in_range).order_by(table.c.id).limit(limit)


def _delete_over(connection: Connection, table: Table, query: Select[Any]) -> PrunedBatch:
    """Delete those of the selected rows whose column `over` is true."""
    rows = connection.execute(query).all()
    over_ids = [row.id for row in rows if row.over]
    connection.execute(delete(table).where(table.c.id.in_(over_ids)))
    return PrunedBatch(len(over_ids), rows[-1].id if rows else None)
