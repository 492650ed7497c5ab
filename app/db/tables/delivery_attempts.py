"""The table `delivery_attempts`: one row for each request to an endpoint, with the response."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import Column, Connection, Index, Integer, LargeBinary, String, Table, bindparam, func, select

from app.db.engine.columns import Instant, metadata
from app.db.tables.deliveries import deliveries
from app.db.tables.endpoints import endpoints

delivery_attempts = Table(
    "delivery_attempts",
    metadata,
    Column("id", String(48), primary_key=True),
    Column("delivery_id", String(48), nullable=False),
    Column("http_status", Integer),
    Column("error", String(16)),
    Column("latency_ms", Integer),
    Column("answer", LargeBinary, nullable=False),  # the beginning of the response body
    Column("began_at", Instant, nullable=False),
)
Index("ix_delivery_attempts_delivery_id_id", delivery_attempts.c.delivery_id, delivery_attempts.c.id)


@dataclass(frozen=True, slots=True)
class DeliveryAttempt:
    id: str
    delivery_id: str
    http_status: int | None
    error: str | None
    latency_ms: int | None
    answer: bytes
    began_at: datetime


@dataclass(frozen=True, slots=True)
class DeliverySummary:
    """A delivery of a task, as the timeline shows it."""

    delivery_id: str
    event: str
    state: str
    detail: str | None
    planned_at: datetime
    due_at: datetime  # of the next attempt, while it is waiting
    ended_at: datetime | None
    endpoint_state: str
    attempts: int


_INSERT = delivery_attempts.insert()
# Locked, so that a deletion that begins now waits, and then finds these attempts too.
_LOCK_DELIVERIES = (
    select(deliveries.c.id)
    .where(deliveries.c.id.in_(bindparam("delivery_ids", expanding=True)))
    .order_by(deliveries.c.id)
    .with_for_update()
)


def insert(connection: Connection, attempts: Sequence[DeliveryAttempt]) -> None:
    """Insert attempts, except those of deliveries that were deleted, which erasing a task may do during an attempt."""
    delivery_ids = list({attempt.delivery_id for attempt in attempts})
    existing = set(connection.execute(_LOCK_DELIVERIES, {"delivery_ids": delivery_ids}).scalars())
    if existing:
        rows = [asdict(attempt) for attempt in attempts if attempt.delivery_id in existing]
        connection.execute(_INSERT, rows)


def of_delivery(connection: Connection, delivery_id: str) -> list[DeliveryAttempt]:
    """Return all attempts of a delivery, earliest first."""
    query = (
        select(delivery_attempts).where(delivery_attempts.c.delivery_id == delivery_id).order_by(delivery_attempts.c.id)
    )
    return [DeliveryAttempt(**row._asdict()) for row in connection.execute(query)]


def summaries_of_task(connection: Connection, task_id: str) -> list[DeliverySummary]:
    """Return the deliveries of a task, earliest first, with the number of their attempts."""
    attempt_count = select(func.count()).where(delivery_attempts.c.delivery_id == deliveries.c.id).scalar_subquery()
    query = (
        select(
            deliveries.c.id.label("delivery_id"),
            deliveries.c.event,
            deliveries.c.state,
            deliveries.c.detail,
            deliveries.c.planned_at,
            deliveries.c.due_at,
            deliveries.c.ended_at,
            endpoints.c.state.label("endpoint_state"),
            attempt_count.label("attempts"),
        )
        .join(endpoints, endpoints.c.id == deliveries.c.endpoint_id)
        .where(deliveries.c.task_id == task_id)
        .order_by(deliveries.c.id)
    )
    return [DeliverySummary(**row._asdict()) for row in connection.execute(query)]
