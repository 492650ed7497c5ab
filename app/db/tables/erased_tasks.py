"""The table `erased`: what remains of an erased task, and the statements that delete the rest.

The task's id, key, application, model, final state and cost remain, because it is paid for. Its attempts remain without
their details, because the provider's own records list them. Request, result, evidence, downloads and deliveries are
deleted.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Column, Connection, Float, Index, Row, String, Table, bindparam, delete, func, select, update

from app.db.engine.columns import Instant, Json, metadata
from app.db.tables import applications, idempotency_keys, task_tags
from app.db.tables.attempts import attempts
from app.db.tables.deliveries import deliveries
from app.db.tables.delivery_attempts import delivery_attempts
from app.db.tables.downloads import downloads
from app.db.tables.evidence import evidence
from app.db.tables.idempotency_keys import StoredAnswer, idempotency
from app.db.tables.reservations import reservations
from app.db.tables.results import results, thumbnail_key
from app.db.tables.spooled_results import spooled_results
from app.db.tables.tasks import Task, tasks

erased = Table(
    "erased",
    metadata,
    Column("task_id", String(48), primary_key=True),
    Column("key_id", String(48), nullable=False),
    Column("application_id", String(48)),  # NULL in rows of earlier versions, see `applications.of`
    Column("account_id", String(48)),  # NULL in rows of earlier versions
    Column("model", String(64), nullable=False),
    Column("status", String(16), nullable=False),
    Column("money_spent", String(8)),
    Column("cost", Float),
    Column("estimated_cost", Float),
    Column("store_keys", Json, nullable=False),  # of its images that have not been deleted from the store
    Column("created_at", Instant, nullable=False),
    Column("erased_at", Instant, nullable=False),
    Column("erasure_id", String(48)),  # the request to erase it; NULL if its retention ended
    Column("digests", Json),  # the SHA-256 of its images, for the receipt
    Column("images_removed_at", Instant),  # when the store had none of them any more
)
_OF_ERASURE = erased.c.erasure_id.is_not(None)
Index(
    "ix_erased_erasure_id_task_id",
    *(erased.c.erasure_id, erased.c.task_id),
    sqlite_where=_OF_ERASURE,
    postgresql_where=_OF_ERASURE,
)
_KEPT_COLUMNS = (
    *("key_id", "application_id", "account_id", "model", "status"),
    *("money_spent", "cost", "estimated_cost", "created_at"),
)
_STORE_KEYS = select(erased.c.store_keys).where(erased.c.task_id == bindparam("task_id"))
# The maximum time from the start of a request with an Idempotency-Key to the creation of its task.
_MAX_REQUEST_TIME = timedelta(minutes=15)


def erase(connection: Connection, task: Task, now: datetime, erasure_id: str | None = None) -> list[str]:
    """Erase a task from all tables. Return the digests of its images. The caller must hold the task's lock.

    `erasure_id`: the request whose receipt states this.
    """
    (image,) = _delete_rows(connection, [task])
    _erase_idempotency_key(connection, task)
    proof = {"store_keys": image.store_keys, "erasure_id": erasure_id, "digests": image.digests}
    times = {"erased_at": now, "images_removed_at": None if image.store_keys else now}
    connection.execute(erased.insert(), {**_kept(task), **proof, **times})
    return image.digests


def retire(connection: Connection, ended: Sequence[Task], now: datetime) -> list[str]:
    """Erase tasks whose retention has ended, at least one. Return the store keys of their images.

    The caller must hold the tasks' locks and remove the images. An `Idempotency-Key` is forgotten long before.
    """
    images = _delete_rows(connection, ended)
    rows = [{**_kept(task), "store_keys": [], "erased_at": now} for task in ended]
    connection.execute(erased.insert(), rows)
    return [key for image in images for key in image.store_keys]


class _Images(NamedTuple):
    """The images of a task: their store keys, with that of the thumbnail, and their SHA-256."""

    store_keys: list[str]
    digests: list[str]


def _kept(task: Task) -> dict[str, object]:
    return {"task_id": task.id, **{name: getattr(task, name) for name in _KEPT_COLUMNS}}


def _delete_rows(connection: Connection, rows: Sequence[Task]) -> list[_Images]:
    """Delete tasks with all that belongs to them. Return the images of each."""
    task_ids = [task.id for task in rows]
    found = connection.execute(select(results).where(results.c.task_id.in_(task_ids)))
    of_tasks = {row.task_id: row for row in found}
    _delete_evidence(connection, task_ids)
    _delete_deliveries(connection, task_ids)
    for task in rows:
        task_tags.remove(connection, task.application_id, task.id, task_tags.of_task(task.user, task.metadata))
    for table in (results, downloads, reservations):
        connection.execute(delete(table).where(table.c.task_id.in_(task_ids)))
    connection.execute(delete(tasks).where(tasks.c.id.in_(task_ids)))
    return [_images(task, of_tasks.get(task.id)) for task in rows]


def _images(task: Task, result: Row[Any] | None) -> _Images:
    inputs = task.request.images
    keys, digests = [image.store_key for image in inputs], [image.sha256 for image in inputs]
    if result is not None:
        keys += [result.store_key, thumbnail_key(result.store_key)]
        digests.append(result.sha256)
    return _Images(keys, digests)


def is_known(connection: Connection, task_id: str) -> bool:
    return store_keys(connection, task_id) is not None


def owner(connection: Connection, task_id: str) -> str | None:
    """Return the application that an erased task belonged to, or None if no such task was erased."""
    query = select(applications.of(erased)).where(erased.c.task_id == task_id)
    application_id: str | None = connection.execute(query).scalar_one_or_none()
    return application_id


def store_keys(connection: Connection, task_id: str) -> Sequence[str] | None:
    """Return the store keys of an erased task's images that are still stored, or None if no such task was erased."""
    keys: Sequence[str] | None = connection.execute(_STORE_KEYS, {"task_id": task_id}).scalar_one_or_none()
    return keys


def erasure_of(connection: Connection, task_id: str) -> str | None:
    """Return the id of the request that erased this task, or None without one."""
    query = select(erased.c.erasure_id).where(erased.c.task_id == task_id)
    erasure_id: str | None = connection.execute(query).scalar_one_or_none()
    return erasure_id


def clear_store_keys(connection: Connection, task_id: str, now: datetime) -> None:
    """Record that the store has no image of this task any more."""
    gone = {"store_keys": [], "images_removed_at": func.coalesce(erased.c.images_removed_at, now)}
    connection.execute(update(erased).where(erased.c.task_id == task_id).values(gone))


def is_used(connection: Connection, store_key: str) -> bool:
    """Return whether a kept result has this store key. Up to version 0.2, results with the same bytes shared one."""
    digest = store_key.rpartition("/")[2].partition(".")[0]
    kept = (results.c.sha256 == digest, results.c.store_key == store_key, results.c.removed_at.is_(None))
    query = select(results.c.task_id).where(*kept).limit(1)
    return connection.execute(query).one_or_none() is not None


def _delete_evidence(connection: Connection, task_ids: Sequence[str]) -> None:
    """Delete the evidence and spool records of the tasks' attempts, and the details of the attempts."""
    of_tasks = attempts.c.task_id.in_(task_ids)
    attempt_ids = connection.execute(select(attempts.c.id).where(of_tasks)).scalars().all()
    for table in (evidence, spooled_results):
        connection.execute(delete(table).where(table.c.attempt_id.in_(attempt_ids)))
    connection.execute(update(attempts).where(of_tasks).values(detail=None, polling_url=None))


def _delete_deliveries(connection: Connection, task_ids: Sequence[str]) -> None:
    """Delete the tasks' deliveries, then their attempts: with those that another transaction is recording meanwhile."""
    of_tasks = delete(deliveries).where(deliveries.c.task_id.in_(task_ids)).returning(deliveries.c.id)
    delivery_ids = connection.execute(of_tasks).scalars().all()
    connection.execute(delete(delivery_attempts).where(delivery_attempts.c.delivery_id.in_(delivery_ids)))


def _erase_idempotency_key(connection: Connection, task: Task) -> None:
    """Erase the Idempotency-Key of the task and the stored answer.

    The key keeps its meaning: a repeated request must not create a second task, which would be charged.
    """
    of_owner = idempotency.c.key_id == applications.first_key_id(task.application_id)
    in_time = idempotency.c.began_at.between(task.created_at - _MAX_REQUEST_TIME, task.created_at)
    for row in connection.execute(select(idempotency).where(of_owner, in_time)).all():
        if row.answer is not None and StoredAnswer.of_json(row.answer).task_id == task.id:
            idempotency_keys.erase(connection, task.application_id, row.idempotency_key, task.id)
