"""Tag tasks of versions that recorded an end user among the parameters alone, so that they are found by it.

The walk follows the ids of the tasks. Such a version may still run beside this one, so the walk has no end.
"""

from datetime import datetime, timedelta

from app import ids
from app.db import Connection
from app.db.queries import untagged
from app.db.tables import retention_progress, tasks
from app.db.tables.retention_progress import EVERY, START, Position
from app.params import recorded_user

BATCH = 1000  # tasks to examine in one transaction
_LIST = "users"  # in `retention_progress`
_COMMITTED = timedelta(minutes=15)  # a task is recorded at most this long after its id was made


def tag_users(connection: Connection, now: datetime, limit: int = BATCH) -> bool:
    """Tag the next tasks, `limit` at most. Return whether all were examined."""
    position = retention_progress.lock(connection, EVERY, _LIST)
    rows = untagged.following(connection, position.subject, ids.first_at("task", now - _COMMITTED), limit)
    found = [row._replace(user=recorded_user(row.user)) for row in rows]
    with_user = [row for row in found if row.user is not None]
    if with_user:
        tasks.lock(connection, [row.task_id for row in with_user])
        untagged.tag(connection, with_user)
    if rows:
        retention_progress.advance(connection, EVERY, _LIST, Position(START.ended_at, rows[-1].task_id))
    return len(rows) < limit
