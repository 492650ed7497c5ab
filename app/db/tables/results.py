"""The table `results`: a task's image and its place in the store.

A row exists only if the bytes are in the store, or were until their retention ended.
"""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Boolean, Column, Connection, Integer, Row, String, Table, Text, bindparam, select

from app.db.engine.columns import Instant, metadata

results = Table(
    "results",
    metadata,
    Column("task_id", String(48), primary_key=True),
    Column("store_key", Text, nullable=False),
    Column("sha256", String(64), nullable=False, index=True),
    Column("media_type", String(32), nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("width", Integer, nullable=False),  # 0: unknown, also the height. Migrations only add, so no NULL
    Column("height", Integer, nullable=False),
    Column("stored_at", Instant, nullable=False),
    Column("unverified_image", Text),  # why the image could not be verified
    Column("content_credentials", Boolean),  # NULL: stored by an earlier version, which did not look
    Column("removed_at", Instant),  # when the retention of the image ended; its bytes are deleted after it
)


@dataclass(frozen=True, slots=True)
class Result:
    task_id: str
    store_key: str
    sha256: str
    media_type: str
    bytes: int
    width: int | None  # None: it could not be read
    height: int | None
    stored_at: datetime
    unverified_image: str | None = None
    content_credentials: bool | None = None  # None: not known
    removed_at: datetime | None = None  # None: the store has it


def thumbnail_key(store_key: str) -> str:
    """Return the store key of the thumbnail of the image with this key. The store may have no object there."""
    return f"thumbnails/{store_key.removeprefix('results/').rpartition('.')[0]}.webp"


_INSERT = results.insert()
_OF_TASKS = select(results).where(results.c.task_id.in_(bindparam("task_ids", expanding=True)))


def insert(connection: Connection, result: Result) -> None:
    size = {"width": result.width or 0, "height": result.height or 0}
    connection.execute(_INSERT, {**asdict(result), **size})


def of_tasks(connection: Connection, task_ids: Collection[str]) -> dict[str, Result]:
    """Return the results of these tasks, by task id. Tasks without a result are left out."""
    if not task_ids:
        return {}
    rows = connection.execute(_OF_TASKS, {"task_ids": list(task_ids)})
    return {row.task_id: _result_of(row) for row in rows}


def _result_of(row: Row[Any]) -> Result:
    return Result(**{**row._asdict(), "width": row.width or None, "height": row.height or None})
