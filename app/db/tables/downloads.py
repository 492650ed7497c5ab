"""The table `downloads`: every attempt to download a result, with its outcome."""

from dataclasses import asdict, dataclass
from datetime import datetime

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
_COUNT = select(func.count()).where(downloads.c.task_id == bindparam("task_id"))


def insert(connection: Connection, download: Download) -> None:
    connection.execute(_INSERT, asdict(download))


def count(connection: Connection, task_id: str) -> int:
    return connection.execute(_COUNT, {"task_id": task_id}).scalar_one()


def first_since(connection: Connection, task_id: str, instant: datetime) -> datetime | None:
    """Return when the first download that started at or after `instant` started, or None."""
    query = select(func.min(downloads.c.started_at)).where(
        downloads.c.task_id == task_id, downloads.c.started_at >= instant
    )
    first: datetime | None = connection.execute(query).scalar_one()
    return first


def of_task(connection: Connection, task_id: str) -> list[Download]:
    """Return all downloads of a task, earliest first."""
    query = select(downloads).where(downloads.c.task_id == task_id).order_by(downloads.c.id)
    return [Download(**row._asdict()) for row in connection.execute(query)]
