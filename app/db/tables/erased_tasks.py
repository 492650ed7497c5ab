"""The table `erased`: what remains of an erased task, and the statements that delete the rest.

The task's id, key, model, final state and cost remain, because it is paid for. Its attempts remain without their
details, because the provider's own records list them. Request, result, evidence, downloads and deliveries are deleted.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import Column, Connection, Float, String, Table, bindparam, delete, select, update

from app.db.engine.columns import Instant, Json, metadata
from app.db.tables.attempts import attempts
from app.db.tables.deliveries import deliveries
from app.db.tables.delivery_attempts import delivery_attempts
from app.db.tables.downloads import downloads
from app.db.tables.evidence import evidence
from app.db.tables.idempotency_keys import StoredAnswer, idempotency
from app.db.tables.results import results
from app.db.tables.spooled_results import spooled_results
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
    Column("store_keys", Json, nullable=False),  # of its images that have not been deleted from the store
    Column("created_at", Instant, nullable=False),
    Column("erased_at", Instant, nullable=False),
)
_KEPT_COLUMNS = ("key_id", "model", "status", "money_spent", "cost", "created_at")
_STORE_KEYS = select(erased.c.store_keys).where(erased.c.task_id == bindparam("task_id"))
# The maximum time from the start of a request with an Idempotency-Key to the creation of its task.
_MAX_REQUEST_TIME = timedelta(minutes=15)


def erase(connection: Connection, task: Task, now: datetime) -> list[str]:
    """Erase a task from all tables. Return the store keys of its images. The caller must hold the task's lock."""
    result_keys = connection.execute(select(results.c.store_key).where(results.c.task_id == task.id)).scalars()
    store_keys = [*(image.store_key for image in task.request.images), *result_keys]
    _delete_evidence(connection, task.id)
    _delete_deliveries(connection, task.id)
    _strip_idempotent_answer(connection, task)
    for table in (results, downloads):
        connection.execute(delete(table).where(table.c.task_id == task.id))
    kept = {name: getattr(task, name) for name in _KEPT_COLUMNS}
    connection.execute(erased.insert(), {"task_id": task.id, **kept, "store_keys": store_keys, "erased_at": now})
    connection.execute(delete(tasks).where(tasks.c.id == task.id))
    return store_keys


def is_known(connection: Connection, task_id: str) -> bool:
    return store_keys(connection, task_id) is not None


def store_keys(connection: Connection, task_id: str) -> Sequence[str] | None:
    """Return the store keys of an erased task's images that are still stored, or None if no such task was erased."""
    keys: Sequence[str] | None = connection.execute(_STORE_KEYS, {"task_id": task_id}).scalar_one_or_none()
    return keys


def clear_store_keys(connection: Connection, task_id: str) -> None:
    """Record that the store has no image of this task any more."""
    connection.execute(update(erased).where(erased.c.task_id == task_id).values(store_keys=[]))


def is_used(connection: Connection, store_key: str) -> bool:
    """Return whether a result has this store key. Up to version 0.2, results with the same bytes shared one."""
    digest = store_key.rpartition("/")[2].partition(".")[0]
    query = select(results.c.task_id).where(results.c.sha256 == digest, results.c.store_key == store_key).limit(1)
    return connection.execute(query).one_or_none() is not None


def _delete_evidence(connection: Connection, task_id: str) -> None:
    """Delete the evidence and spool records of a task's attempts, and the details of the attempts."""
    attempt_ids = connection.execute(select(attempts.c.id).where(attempts.c.task_id == task_id)).scalars().all()
    for table in (evidence, spooled_results):
        connection.execute(delete(table).where(table.c.attempt_id.in_(attempt_ids)))
    connection.execute(update(attempts).where(attempts.c.task_id == task_id).values(detail=None, polling_url=None))


def _delete_deliveries(connection: Connection, task_id: str) -> None:
    delivery_ids = connection.execute(select(deliveries.c.id).where(deliveries.c.task_id == task_id)).scalars().all()
    connection.execute(delete(delivery_attempts).where(delivery_attempts.c.delivery_id.in_(delivery_ids)))
    connection.execute(delete(deliveries).where(deliveries.c.id.in_(delivery_ids)))


def _strip_idempotent_answer(connection: Connection, task: Task) -> None:
    """Reduce the stored answer of the task's Idempotency-Key to the task's id.

    The key keeps its meaning: a repeated request must not create a second task, which would be charged.
    """
    of_key = idempotency.c.key_id == task.key_id
    in_time = idempotency.c.began_at.between(task.created_at - _MAX_REQUEST_TIME, task.created_at)
    for row in connection.execute(select(idempotency).where(of_key, in_time)).all():
        if row.answer is not None and StoredAnswer.of_json(row.answer).task_id == task.id:
            of_row = idempotency.c.idempotency_key == row.idempotency_key
            stripped = StoredAnswer(task.id).as_json()
            connection.execute(update(idempotency).where(of_key, of_row).values(answer=stripped))
