"""Finds tasks of versions that recorded an end user among the parameters alone."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, select, update

from app.db.tables import task_tags
from app.db.tables.tasks import APPLICATION, tasks


class Untagged(NamedTuple):
    """A task. `user`: the parameter of this name, of any type; None if the task has none, or is tagged already."""

    task_id: str
    application_id: str
    user: object


def following(connection: Connection, after: str, before: str, limit: int) -> list[Untagged]:
    """Return the next tasks in the order of their ids, between these two."""
    columns = (
        tasks.c.id,
        APPLICATION.label("application_id"),
        tasks.c.user,
        tasks.c.request["user"].label("parameter"),
    )
    query = select(*columns).where(tasks.c.id > after, tasks.c.id < before).order_by(tasks.c.id).limit(limit)
    return [
        Untagged(row.id, row.application_id, row.parameter if row.end_user is None else None)
        for row in connection.execute(query)
    ]


def tag(connection: Connection, rows: Sequence[Untagged]) -> None:
    """Record the end users of these tasks, as of new ones. The caller must hold the tasks' locks."""
    for row in rows:
        untagged = (tasks.c.id == row.task_id, tasks.c.user.is_(None))
        if connection.execute(update(tasks).where(*untagged).values(user=row.user)).rowcount:
            task_tags.put(connection, row.application_id, row.task_id, [task_tags.of_user(str(row.user))])
