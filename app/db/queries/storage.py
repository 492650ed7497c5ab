"""How much the images, the input images and the database take, and what arrives in a time span.

Reads whole tables: only for `fluxhook doctor`.
"""

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, func, select, text

from app import ids
from app.db.tables.results import results
from app.db.tables.tasks import tasks

_SAMPLE = 20_000  # tasks whose requests are read to estimate the size of all input images
_INPUTS = {
    "sqlite": text("""
        WITH newest AS (
            SELECT request, inputs_removed_at FROM tasks WHERE id >= :first ORDER BY id DESC LIMIT :sample
        )
        SELECT coalesce(sum(json_extract(image.value, '$.bytes')), 0)
        FROM newest, json_each(newest.request, '$.images') AS image
        WHERE newest.inputs_removed_at IS NULL
    """),
    "postgresql": text("""
        WITH newest AS (
            SELECT request, inputs_removed_at FROM tasks WHERE id >= :first ORDER BY id DESC LIMIT :sample
        )
        SELECT coalesce(sum(CAST(image ->> 'bytes' AS bigint)), 0)
        FROM newest, jsonb_array_elements(newest.request -> 'images') AS image
        WHERE newest.inputs_removed_at IS NULL
    """),
}
_SIZE = {
    "sqlite": "SELECT (SELECT page_count FROM pragma_page_count) * (SELECT page_size FROM pragma_page_size)",
    "postgresql": "SELECT pg_database_size(current_database())",
}


class Amount(NamedTuple):
    """A number of tasks, the bytes of their images in the store, and about those of their input images."""

    tasks: int
    images: int
    inputs: int


def database_size(connection: Connection) -> int:
    """Return the size of the database in bytes."""
    return int(connection.exec_driver_sql(_SIZE[connection.dialect.name]).scalar_one())


def amount(connection: Connection, since: datetime | None = None) -> Amount:
    """Return what the tasks that were created since then have stored, or all tasks."""
    first = "" if since is None else ids.first_at("task", since)
    of_tasks = (results.c.task_id >= first, results.c.removed_at.is_(None))
    images = connection.execute(select(func.coalesce(func.sum(results.c.bytes), 0)).where(*of_tasks)).scalar_one()
    posted = connection.execute(select(func.count()).select_from(tasks).where(tasks.c.id >= first)).scalar_one()
    return Amount(posted, int(images), _inputs(connection, first, posted))


def oldest(connection: Connection) -> datetime | None:
    """Return when the oldest task was created, or None without any."""
    return connection.execute(select(tasks.c.created_at).order_by(tasks.c.id).limit(1)).scalar_one_or_none()


def _inputs(connection: Connection, first: str, posted: int) -> int:
    """Return about how many bytes of input images are stored: those of the newest tasks, and the others alike."""
    found = int(connection.execute(_INPUTS[connection.dialect.name], {"first": first, "sample": _SAMPLE}).scalar_one())
    return found if posted <= _SAMPLE else int(found * posted / _SAMPLE)
