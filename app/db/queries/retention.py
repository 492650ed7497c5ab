"""Statements of retention: which ended tasks are due, and what is deleted of them.

The index `ix_tasks_ended` has the ended tasks of each application in order, so no statement reads an open task.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, delete, func, literal, literal_column, or_, select, update

from app import ids
from app.db.tables import applications as applications_of
from app.db.tables.api_keys import keys
from app.db.tables.applications import applications
from app.db.tables.attempts import attempts
from app.db.tables.deliveries import DeliveryState, deliveries
from app.db.tables.delivery_attempts import delivery_attempts
from app.db.tables.downloads import downloads
from app.db.tables.endpoints import Endpoint, EndpointState, endpoints
from app.db.tables.evidence import evidence
from app.db.tables.results import results
from app.db.tables.retention_progress import START, Position
from app.db.tables.retention_progress import retention_progress as progress
from app.db.tables.tasks import APPLICATION, ENDED_AT, IS_FINAL, Task, task_of, tasks
from app.rules.retention import DataClass
from app.rules.task import Status

_HAS_ENDED = (DeliveryState.DELIVERED, DeliveryState.FAILED)


@dataclass(frozen=True, slots=True)
class Group:
    """The applications that keep a class of data equally long: these, or with `excluded` all but these."""

    data: DataClass
    ended_before: datetime  # tasks that ended earlier are due
    application_ids: tuple[str, ...]
    excluded: bool


def own_retentions(connection: Connection) -> dict[str, Mapping[str, int | None]]:
    """Return the `retention_days` of the applications that have their own, by id."""
    columns = (applications.c.id, applications.c.retention_days)
    rows = connection.execute(select(*columns).where(applications.c.retention_days.is_not(None)))
    return {row.id: row.retention_days for row in rows if row.retention_days}


def due(connection: Connection, group: Group) -> list[str]:
    """Return the applications of a group that have a task which is due and was not examined yet."""
    of_group = applications.c.id.in_(group.application_ids)
    begin = func.coalesce(progress.c.ended_at, literal(START.ended_at, progress.c.ended_at.type))
    # Not the column itself: SQLite does not use an index of expressions for a comparison with the affinity of a column.
    application_id = func.coalesce(applications.c.id, literal_column("''"))
    # A scalar subquery: PostgreSQL could answer EXISTS by a scan of all tasks.
    following = (
        select(tasks.c.id)
        .where(application_id == APPLICATION, IS_FINAL, group.ended_before > ENDED_AT, begin <= ENDED_AT)
        .where(or_(begin < ENDED_AT, tasks.c.id > func.coalesce(progress.c.subject, "")))
        .order_by(ENDED_AT, tasks.c.id)
        .limit(1)
        .scalar_subquery()
    )
    its_progress = (progress.c.application_id == applications.c.id) & (progress.c.data == group.data)
    query = (
        select(applications.c.id)
        .select_from(applications.outerjoin(progress, its_progress))
        .where(~of_group if group.excluded else of_group, following.is_not(None))
    )
    return list(connection.execute(query.order_by(applications.c.id)).scalars())


def following(
    connection: Connection, application_id: str, after: Position, ended_before: datetime, limit: int
) -> list[Position]:
    """Return the next tasks of an application that ended before this time, in the order of their ends."""
    query = (
        select(ENDED_AT, tasks.c.id)
        .where(literal(application_id) == APPLICATION, IS_FINAL, ended_before > ENDED_AT, after.ended_at <= ENDED_AT)
        .where(or_(after.ended_at < ENDED_AT, tasks.c.id > after.subject))
        .order_by(ENDED_AT, tasks.c.id)
        .limit(limit)
    )
    return [Position(*row) for row in connection.execute(query)]


def ended(connection: Connection, task_ids: Collection[str], before: datetime) -> list[Task]:
    """Return those of these tasks that are final and ended before this time. The caller must hold their locks."""
    query = select(tasks).where(tasks.c.id.in_(task_ids), IS_FINAL, before > ENDED_AT).order_by(tasks.c.id)
    return [task_of(row) for row in connection.execute(query)]


def mark_images(connection: Connection, task_ids: Collection[str], now: datetime) -> list[str]:
    """Mark the results of these tasks as removed. Return the store keys of those that were not."""
    kept = (results.c.task_id.in_(task_ids), results.c.removed_at.is_(None))
    statement = update(results).where(*kept).values(removed_at=now).returning(results.c.store_key)
    return list(connection.execute(statement).scalars())


def mark_inputs(connection: Connection, task_ids: Collection[str], now: datetime) -> None:
    """Mark the input images of these tasks as removed."""
    connection.execute(update(tasks).where(tasks.c.id.in_(task_ids)).values(inputs_removed_at=now))


def delete_evidence(connection: Connection, task_ids: Collection[str], limit: int) -> int:
    """Delete evidence of these tasks, `limit` rows at most. Return their number."""
    of_tasks = attempts.c.task_id.in_(task_ids)
    found = select(evidence.c.id).join(attempts, attempts.c.id == evidence.c.attempt_id).where(of_tasks).limit(limit)
    evidence_ids = list(connection.execute(found).scalars())
    connection.execute(delete(evidence).where(evidence.c.id.in_(evidence_ids)))
    return len(evidence_ids)


def delete_downloads(connection: Connection, task_ids: Collection[str], limit: int) -> int:
    """Delete downloads of these tasks, `limit` rows at most. Return their number."""
    found = select(downloads.c.id).where(downloads.c.task_id.in_(task_ids)).limit(limit)
    download_ids = list(connection.execute(found).scalars())
    connection.execute(delete(downloads).where(downloads.c.id.in_(download_ids)))
    return len(download_ids)


def delete_deliveries(connection: Connection, task_ids: Collection[str], ended_before: datetime, limit: int) -> int:
    """Delete deliveries of these tasks that ended before this time, `limit` at most. Return their number."""
    found = select(deliveries.c.id).where(deliveries.c.task_id.in_(task_ids), deliveries.c.ended_at < ended_before)
    return _delete_deliveries(connection, list(connection.execute(found.limit(limit)).scalars()), ended_before)


def delete_deliveries_of(connection: Connection, endpoint_id: str, ended_before: datetime, limit: int) -> int:
    """Delete deliveries of an endpoint that ended before this time, `limit` at most. Return their number."""
    return _delete_deliveries(connection, _old(connection, endpoint_id, ended_before, limit), ended_before)


def has_old(connection: Connection, endpoint_id: str, ended_before: datetime) -> bool:
    """Return whether an endpoint has a delivery that ended before this time."""
    return bool(_old(connection, endpoint_id, ended_before, 1))


def _old(connection: Connection, endpoint_id: str, ended_before: datetime, limit: int) -> list[str]:
    """Return deliveries of an endpoint that ended before this time. Their ids sort by the time they were planned."""
    planned_before = ids.first_at("dlv", ended_before)
    delivery_ids: list[str] = []
    for state in _HAS_ENDED:
        of_endpoint = (deliveries.c.endpoint_id == endpoint_id, deliveries.c.state == state)
        old = (deliveries.c.id < planned_before, deliveries.c.ended_at < ended_before)
        found = select(deliveries.c.id).where(*of_endpoint, *old).order_by(deliveries.c.id)
        delivery_ids += connection.execute(found.limit(limit - len(delivery_ids))).scalars()
    return delivery_ids


def _delete_deliveries(connection: Connection, delivery_ids: Collection[str], ended_before: datetime) -> int:
    """Delete these deliveries with their attempts, except those that were replayed since they were read."""
    ended_ones = (deliveries.c.id.in_(delivery_ids), deliveries.c.ended_at < ended_before)
    deleted = list(connection.execute(delete(deliveries).where(*ended_ones).returning(deliveries.c.id)).scalars())
    connection.execute(delete(delivery_attempts).where(delivery_attempts.c.delivery_id.in_(deleted)))
    return len(deleted)


class EvidenceOf(NamedTuple):
    """A piece of evidence with the application of its task, and when the task ended; None: it is open."""

    evidence_id: str
    application_id: str
    ended_at: datetime | None


def evidence_between(connection: Connection, after: str, received_before: datetime, limit: int) -> list[EvidenceOf]:
    """Return evidence that was received before this time, in the order of its ids: higher than `after`."""
    query = (
        select(evidence.c.id, APPLICATION.label("application_id"), ENDED_AT.label("ended_at"), IS_FINAL.label("final"))
        .join(attempts, attempts.c.id == evidence.c.attempt_id)
        .join(tasks, tasks.c.id == attempts.c.task_id)
        .where(evidence.c.id > after, evidence.c.id < ids.first_at("ev", received_before))
        .order_by(evidence.c.id)
        .limit(limit)
    )
    rows = connection.execute(query)
    return [EvidenceOf(row.id, row.application_id, row.ended_at if row.final else None) for row in rows]


def delete_evidence_rows(connection: Connection, evidence_ids: Sequence[str]) -> None:
    connection.execute(delete(evidence).where(evidence.c.id.in_(evidence_ids)))


class Visited(NamedTuple):
    """An endpoint that retention looks at. `is_empty`: it has no deliveries.

    `paused_since_due`: if it is paused, when the first of its waiting deliveries was due.
    """

    endpoint_id: str
    application_id: str
    is_empty: bool
    paused_since_due: datetime | None


def next_endpoints(connection: Connection, after: str, limit: int) -> list[Visited]:
    """Return the next endpoints in the order of their ids: higher than `after`."""
    # In the order of an index: PostgreSQL could answer EXISTS by a scan of all deliveries.
    of_endpoint = select(deliveries.c.id).where(deliveries.c.endpoint_id == endpoints.c.id)
    one = of_endpoint.order_by(deliveries.c.state, deliveries.c.id).limit(1).scalar_subquery()
    waits = (deliveries.c.endpoint_id == endpoints.c.id, deliveries.c.state == DeliveryState.WAITING)
    first_due = select(deliveries.c.due_at).where(*waits, endpoints.c.state == EndpointState.PAUSED)
    due_at = first_due.order_by(deliveries.c.due_at).limit(1).scalar_subquery()
    columns = (endpoints.c.id, endpoints.c.key_id, one.label("delivery_id"), due_at.label("due_at"))
    query = select(*columns).where(endpoints.c.id > after).order_by(endpoints.c.id).limit(limit)
    return [
        Visited(
            row.id,
            applications_of.id_of_key(row.key_id),
            is_empty=row.delivery_id is None,
            paused_since_due=row.due_at,
        )
        for row in connection.execute(query)
    ]


def is_needed(connection: Connection, endpoint: Endpoint) -> bool:
    """Return whether a delivery, an API key, an application or an open task names this endpoint."""
    of_endpoint = select(deliveries.c.id).where(deliveries.c.endpoint_id == endpoint.id)
    of_endpoint = of_endpoint.order_by(deliveries.c.state, deliveries.c.id)
    own = endpoint.application_id
    of_key = select(keys.c.id).where(applications_of.of_key(keys) == own, keys.c.webhook_url == endpoint.url)
    of_application = select(applications.c.id).where(
        applications.c.id == own, applications.c.webhook_url == endpoint.url
    )
    is_open = tasks.c.status.in_([status for status in Status if not status.final])
    of_task = select(tasks.c.id).where(literal(own) == APPLICATION, is_open, tasks.c.webhook_url == endpoint.url)
    queries = (of_endpoint, of_key, of_application, of_task)
    return any(connection.execute(query.limit(1)).one_or_none() is not None for query in queries)
