"""The table `erased`: what is left of a task that somebody had erased, and the statements that take the rest away.

That it was, how it ended and what it cost stays, because somebody pays for it; so do its attempts, which the provider's
own list names. What was asked, what was made of it and what anybody said of it goes.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Column, Connection, Float, String, Table, bindparam, delete, select, update

from app.db.engine.columns import Instant, Json, metadata
from app.db.tables.attempts import submissions
from app.db.tables.deliveries import deliveries
from app.db.tables.delivery_attempts import attempts
from app.db.tables.downloads import downloads
from app.db.tables.evidence import evidence
from app.db.tables.idempotency_keys import idempotency
from app.db.tables.results import results
from app.db.tables.spooled_results import kept_aside
from app.db.tables.tasks import Task, tasks

erased = Table(
    "erased",
    metadata,
    Column("task_id", String(48), primary_key=True),
    Column("key_id", String(48), nullable=False),
    Column("model", String(64), nullable=False),
    Column("status", String(16), nullable=False),
    Column("money_spent", String(8)),
    Column("cost", Float),
    Column("store_keys", Json, nullable=False),  # of its images that are still in the store
    Column("created_at", Instant, nullable=False),
    Column("erased_at", Instant, nullable=False),
)
_STAYS = ("key_id", "model", "status", "money_spent", "cost", "created_at")
_KEYS = select(erased.c.store_keys).where(erased.c.task_id == bindparam("of"))
_LONGEST = timedelta(minutes=15)  # from when a request with an Idempotency-Key began to when its task was recorded


def erase(connection: Connection, task: Task, now: datetime) -> list[str]:
    """Take a task out of every table that tells of it. The task must be locked; the keys of its images come back."""
    result = connection.execute(select(results.c.store_key).where(results.c.task_id == task.id)).scalars()
    keys = [*(image["store_key"] for image in task.request.get("images", ())), *result]
    _forget_what_was_said(connection, task.id)
    _forget_what_was_told(connection, task.id)
    _forget_answer(connection, task)
    for table in (results, downloads):
        connection.execute(delete(table).where(table.c.task_id == task.id))
    stays = {name: getattr(task, name) for name in _STAYS}
    connection.execute(erased.insert(), {"task_id": task.id, **stays, "store_keys": keys, "erased_at": now})
    connection.execute(delete(tasks).where(tasks.c.id == task.id))
    return keys


def is_known(connection: Connection, task_id: str) -> bool:
    return store_keys(connection, task_id) is not None


def store_keys(connection: Connection, task_id: str) -> Sequence[str] | None:
    """Under what images of an erased task are still kept; None where no such task was erased."""
    found: Sequence[str] | None = connection.execute(_KEYS, {"of": task_id}).scalar_one_or_none()
    return found


def forget_keys(connection: Connection, task_id: str) -> None:
    """The store has none of its images any more."""
    connection.execute(update(erased).where(erased.c.task_id == task_id).values(store_keys=[]))


def is_used(connection: Connection, store_key: str) -> bool:
    """Whether a result is kept under this key: once, results of the same bytes had one key for all."""
    digest = store_key.rpartition("/")[2].partition(".")[0]
    query = select(results.c.task_id).where(results.c.sha256 == digest, results.c.store_key == store_key).limit(1)
    return connection.execute(query).one_or_none() is not None


def _forget_what_was_said(connection: Connection, task_id: str) -> None:
    mine = connection.execute(select(submissions.c.id).where(submissions.c.task_id == task_id)).scalars().all()
    for table in (evidence, kept_aside):
        connection.execute(delete(table).where(table.c.submission_id.in_(mine)))
    quiet: dict[str, Any] = {"detail": None, "polling_url": None}
    connection.execute(update(submissions).where(submissions.c.task_id == task_id).values(quiet))


def _forget_what_was_told(connection: Connection, task_id: str) -> None:
    mine = connection.execute(select(deliveries.c.id).where(deliveries.c.task_id == task_id)).scalars().all()
    connection.execute(delete(attempts).where(attempts.c.delivery_id.in_(mine)))
    connection.execute(delete(deliveries).where(deliveries.c.id.in_(mine)))


def _forget_answer(connection: Connection, task: Task) -> None:
    """The first answer to an Idempotency-Key shows the task. The key goes on to stand for it: to post is to pay."""
    of_key = idempotency.c.key_id == task.key_id
    then = idempotency.c.began_at.between(task.created_at - _LONGEST, task.created_at)
    for row in connection.execute(select(idempotency).where(of_key, then)).all():
        if (row.answer or {}).get("id") == task.id:
            this = idempotency.c.idempotency_key == row.idempotency_key
            connection.execute(update(idempotency).where(of_key, this).values(answer={"id": task.id}))
