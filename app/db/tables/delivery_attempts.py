"""The table `delivery_attempts`: every request that was made to deliver something, and what was answered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Connection, Index, Integer, LargeBinary, String, Table, func, select

from app.db.engine.columns import Instant, metadata
from app.db.tables.deliveries import deliveries
from app.db.tables.endpoints import endpoints

attempts = Table(
    "delivery_attempts",
    metadata,
    Column("id", String(48), primary_key=True),
    Column("delivery_id", String(48), nullable=False),
    Column("http_status", Integer),
    Column("error", String(16)),
    Column("latency_ms", Integer),
    Column("answer", LargeBinary, nullable=False),  # how its body begins
    Column("began_at", Instant, nullable=False),
)
Index("ix_delivery_attempts_delivery_id_id", attempts.c.delivery_id, attempts.c.id)


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
class Told:
    """A delivery of a task as its timeline has it."""

    delivery_id: str
    event: str
    state: str
    detail: str | None
    planned_at: datetime
    ended_at: datetime | None
    endpoint_state: str
    attempts: int


def insert(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Those of deliveries that are still there: they go with an erased task, also while one is sent."""
    named = {row["delivery_id"] for row in rows}
    there = set(connection.execute(select(deliveries.c.id).where(deliveries.c.id.in_(named))).scalars())
    if there:
        connection.execute(attempts.insert(), [row for row in rows if row["delivery_id"] in there])


def of_delivery(connection: Connection, delivery_id: str) -> list[DeliveryAttempt]:
    """All attempts of a delivery, the earliest first."""
    query = select(attempts).where(attempts.c.delivery_id == delivery_id).order_by(attempts.c.id)
    return [DeliveryAttempt(**row._asdict()) for row in connection.execute(query)]


def told_of(connection: Connection, task_id: str) -> list[Told]:
    """The deliveries of a task, the earliest first, with the number of their attempts."""
    made = select(func.count()).where(attempts.c.delivery_id == deliveries.c.id).scalar_subquery()
    query = (
        select(
            deliveries.c.id.label("delivery_id"),
            deliveries.c.event,
            deliveries.c.state,
            deliveries.c.detail,
            deliveries.c.planned_at,
            deliveries.c.ended_at,
            endpoints.c.state.label("endpoint_state"),
            made.label("attempts"),
        )
        .join(endpoints, endpoints.c.id == deliveries.c.endpoint_id)
        .where(deliveries.c.task_id == task_id)
        .order_by(deliveries.c.id)
    )
    return [Told(**row._asdict()) for row in connection.execute(query)]
