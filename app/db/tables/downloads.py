"""The table `downloads`: every attempt to bring a result home, and how it went."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Connection, String, Table, Text, bindparam, func, select

from app.db.engine.columns import Instant, metadata

downloads = Table(
    "downloads",
    metadata,
    Column("id", String(48), primary_key=True),
    Column("task_id", String(48), nullable=False, index=True),
    Column("outcome", String(16), nullable=False),  # stored, kept_aside, or failed
    Column("detail", Text),
    Column("started_at", Instant, nullable=False),
    Column("ended_at", Instant, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Download:
    id: str
    task_id: str
    outcome: str
    detail: str | None
    started_at: datetime
    ended_at: datetime


_INSERT = downloads.insert()
_COUNT = select(func.count()).where(downloads.c.task_id == bindparam("of"))


def insert(connection: Connection, **values: Any) -> None:
    connection.execute(_INSERT, values)


def count(connection: Connection, task_id: str) -> int:
    return connection.execute(_COUNT, {"of": task_id}).scalar_one()


def first_since(connection: Connection, task_id: str, instant: datetime) -> datetime | None:
    """When the first attempt since then was begun."""
    query = select(func.min(downloads.c.started_at)).where(
        downloads.c.task_id == task_id, downloads.c.started_at >= instant
    )
    first: datetime | None = connection.execute(query).scalar_one()
    return first


def of_task(connection: Connection, task_id: str) -> list[Download]:
    """Every attempt, the earliest first."""
    query = select(downloads).where(downloads.c.task_id == task_id).order_by(downloads.c.id)
    return [Download(**row._asdict()) for row in connection.execute(query)]
