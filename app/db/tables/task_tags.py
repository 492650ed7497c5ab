"""The table `task_tags`: finds tasks by their end user, and by pairs of their metadata.

A tag is stored as a digest, so the table repeats nothing that a client has sent. Rows sort by the creation of the task.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping

from sqlalchemy import Column, Connection, String, Table, delete, insert, select

from app.db.engine.columns import metadata

task_tags = Table(
    "task_tags",
    metadata,
    Column("application_id", String(48), primary_key=True),
    Column("tag", String(32), primary_key=True),
    Column("task_id", String(48), primary_key=True),
)


def of_user(user: str) -> str:
    """Return the tag of an end user."""
    return _digest("user", user)


def of_pair(pair: str) -> str:
    """Return the tag of a pair of metadata, given as `key:value`."""
    return _digest("metadata", pair)


def of_task(user: str | None, pairs: Mapping[str, str] | None) -> list[str]:
    """Return all tags of a task with this end user and this metadata."""
    users = [] if user is None else [of_user(user)]
    return [*users, *{of_pair(f"{key}:{value}"): None for key, value in (pairs or {}).items()}]


def put(connection: Connection, application_id: str, task_id: str, tags: Iterable[str]) -> None:
    """Record the tags of a new task."""
    rows = [{"application_id": application_id, "tag": tag, "task_id": task_id} for tag in tags]
    if rows:
        connection.execute(insert(task_tags), rows)


def remove(connection: Connection, application_id: str, task_id: str, tags: Collection[str]) -> None:
    """Delete the rows of a task with these tags."""
    if tags:
        of_task = (task_tags.c.application_id == application_id, task_tags.c.task_id == task_id)
        connection.execute(delete(task_tags).where(*of_task, task_tags.c.tag.in_(tags)))


def first(
    connection: Connection, application_id: str, tag: str, before: str, *, limit: int, after: str = ""
) -> list[str]:
    """Return the ids of tasks with this tag, oldest first: higher than `after` and lower than `before`."""
    of_tag = (task_tags.c.application_id == application_id, task_tags.c.tag == tag)
    in_range = (task_tags.c.task_id > after, task_tags.c.task_id < before)
    query = select(task_tags.c.task_id).where(*of_tag, *in_range)
    return list(connection.execute(query.order_by(task_tags.c.task_id).limit(limit)).scalars())


def _digest(kind: str, text: str) -> str:
    return hashlib.sha256(f"{kind}\0{text}".encode()).hexdigest()[:32]
