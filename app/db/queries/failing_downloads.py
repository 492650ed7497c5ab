"""Results that the provider has, and whose latest download failed."""

from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from app.db.tables.downloads import downloads
from app.db.tables.tasks import tasks
from app.rules.task import Status


@dataclass(frozen=True, slots=True)
class FailingDownloads:
    """The number of tasks, and the latest of them with the reason."""

    tasks: int
    task_id: str
    reason: str


def failing_downloads(connection: Connection) -> FailingDownloads | None:
    """Return the ready tasks whose latest download failed, or None without any. Reads only ready tasks."""
    of_task = downloads.alias("of_task")
    latest = select(func.max(of_task.c.id)).where(of_task.c.task_id == tasks.c.id).scalar_subquery()
    query = (
        select(func.count().over().label("tasks"), tasks.c.id, downloads.c.detail)
        .join_from(tasks, downloads, downloads.c.id == latest)
        .where(tasks.c.status == Status.READY, downloads.c.outcome == "failed")
        .order_by(downloads.c.id.desc())
        .limit(1)
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else FailingDownloads(row.tasks, row.id, row.detail or "unknown")
