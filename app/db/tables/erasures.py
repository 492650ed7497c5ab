"""The table `erasures`: requests to erase a task, or all tasks of an end user, from which receipts are made.

An end user is stored as a digest (see `task_tags`), so that the receipt does not keep what was erased.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Column, Connection, Index, Integer, Row, String, Table, select, update

from app.db.engine.columns import Instant, metadata
from app.db.tables.erased_tasks import erased

NOTHING = "0" * 64  # the digest of no task


class ErasureKind(StrEnum):
    TASK = "task"
    USER = "user"


erasures = Table(
    "erasures",
    metadata,
    Column("id", String(48), primary_key=True),
    Column("application_id", String(48), nullable=False),
    Column("kind", String(8), nullable=False),
    Column("subject", String(48), nullable=False),  # the id of the task, or the tag of the end user
    Column("requested_at", Instant, nullable=False),
    Column("tasks_erased_at", Instant),  # when the rows of all tasks were gone
    Column("finished_at", Instant),  # when their images were gone too
    Column("tasks", Integer, nullable=False),
    Column("images", Integer, nullable=False),
    Column("digest", String(64), nullable=False),  # over all tasks, in the order of their erasure
)
Index("ix_erasures_application_id_subject_id", erasures.c.application_id, erasures.c.subject, erasures.c.id)
_IS_OPEN = erasures.c.finished_at.is_(None)
Index("ix_erasures_open", erasures.c.id, sqlite_where=_IS_OPEN, postgresql_where=_IS_OPEN)


@dataclass(frozen=True, slots=True)
class Erasure:
    id: str
    application_id: str
    kind: ErasureKind
    subject: str
    requested_at: datetime
    tasks_erased_at: datetime | None = None
    finished_at: datetime | None = None
    tasks: int = 0
    images: int = 0
    digest: str = NOTHING


@dataclass(frozen=True, slots=True)
class ErasedItem:
    """What a receipt states about one task."""

    task_id: str
    digests: Sequence[str]  # SHA-256 in hex of its images: the inputs, then the result
    erased_at: datetime
    images_removed_at: datetime | None


def insert(connection: Connection, erasure: Erasure) -> None:
    connection.execute(erasures.insert(), asdict(erasure))


def get(connection: Connection, erasure_id: str) -> Erasure | None:
    return _one(connection.execute(select(erasures).where(erasures.c.id == erasure_id)).one_or_none())


def lock(connection: Connection, erasure_id: str) -> Erasure | None:
    """Return an erasure, locked until the transaction ends."""
    query = select(erasures).where(erasures.c.id == erasure_id).with_for_update()
    return _one(connection.execute(query).one_or_none())


def latest(connection: Connection, application_id: str, subject: str) -> Erasure | None:
    """Return the newest erasure of this task or end user."""
    query = select(erasures).where(erasures.c.application_id == application_id, erasures.c.subject == subject)
    return _one(connection.execute(query.order_by(erasures.c.id.desc()).limit(1)).one_or_none())


def open_ids(connection: Connection) -> set[str]:
    """Return the ids of the erasures that have tasks left to erase."""
    return set(
        connection.execute(select(erasures.c.id).where(_IS_OPEN, erasures.c.tasks_erased_at.is_(None))).scalars()
    )


def count(connection: Connection, erasure: Erasure, items: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Add erased tasks, each with the digests of its images. The caller must hold the erasure's lock."""
    digest = erasure.digest
    for item in items:
        digest = following_digest(digest, *item)
    images = sum(len(digests) for _, digests in items)
    values = {"tasks": erasure.tasks + len(items), "images": erasure.images + images, "digest": digest}
    connection.execute(update(erasures).where(erasures.c.id == erasure.id).values(values))


def following_digest(digest: str, task_id: str, digests: Sequence[str]) -> str:
    """Return the digest after one more task: SHA-256 over the digest, a line feed, and the task as a JSON list."""
    line = json.dumps([task_id, *digests], separators=(",", ":"))
    return hashlib.sha256(f"{digest}\n{line}".encode()).hexdigest()


def mark_tasks_erased(connection: Connection, erasure_id: str, now: datetime) -> None:
    connection.execute(update(erasures).where(erasures.c.id == erasure_id).values(tasks_erased_at=now))


def finish_if_complete(connection: Connection, erasure_id: str, now: datetime) -> None:
    """Mark an erasure as finished if no task and no image is left."""
    erasure = lock(connection, erasure_id)
    if erasure is None or erasure.tasks_erased_at is None or erasure.finished_at is not None:
        return
    left = select(erased.c.task_id).where(erased.c.erasure_id == erasure_id, erased.c.images_removed_at.is_(None))
    if connection.execute(left.limit(1)).one_or_none() is None:
        connection.execute(update(erasures).where(erasures.c.id == erasure_id).values(finished_at=now))


def items(connection: Connection, erasure_id: str, *, limit: int, after: str | None) -> list[ErasedItem]:
    """Return what was erased, in the order of the ids of the tasks: with ids higher than `after`."""
    columns = (erased.c.task_id, erased.c.digests, erased.c.erased_at, erased.c.images_removed_at)
    query = select(*columns).where(erased.c.erasure_id == erasure_id, erased.c.task_id > (after or ""))
    rows = connection.execute(query.order_by(erased.c.task_id).limit(limit))
    return [ErasedItem(row.task_id, row.digests or (), row.erased_at, row.images_removed_at) for row in rows]


def newest(connection: Connection, *, application_id: str | None, limit: int, before: str | None) -> list[Erasure]:
    """Return erasures, newest first; with `before`, only those requested before the one with this id."""
    query = select(erasures).order_by(erasures.c.id.desc()).limit(limit)
    if application_id is not None:
        query = query.where(erasures.c.application_id == application_id)
    if before is not None:
        query = query.where(erasures.c.id < before)
    return [_erasure_of(row) for row in connection.execute(query)]


def _one(row: Row[Any] | None) -> Erasure | None:
    return None if row is None else _erasure_of(row)


def _erasure_of(row: Row[Any]) -> Erasure:
    values = row._asdict()
    return Erasure(**{**values, "kind": ErasureKind(values["kind"])})
