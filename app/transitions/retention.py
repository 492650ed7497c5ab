"""End the retention of tasks: delete a class of their data in one transaction, which also records how far it came.

A process that is killed between two of these transactions leaves the rest to the next sweep. Nothing is deleted of a
task that is open, or that was queued again since it was found.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from app.db import Connection
from app.db.queries import retention, waiting_deliveries
from app.db.queries.retention import Group, Visited
from app.db.tables import endpoints, erased_tasks, retention_progress, tasks
from app.db.tables.retention_progress import EVERY, START, Position
from app.db.tables.tasks import Task
from app.rules.backoff import WEBHOOK_SCHEDULE
from app.rules.retention import DataClass
from app.transitions import removals

_LATE, _ENDPOINTS = "late", "endpoints"  # the lists of evidence and of endpoints, in `retention_progress`
_NEW = timedelta(days=1)  # an endpoint that is younger is kept
_MAX_ROWS = 1000  # of evidence to delete in one transaction: one task can have any number


class Batch(NamedTuple):
    """What one transaction did. `is_last`: no further task of the application is due."""

    examined: int
    deleted: int
    is_last: bool


def end(connection: Connection, group: Group, application_id: str, now: datetime, limit: int) -> Batch:
    """Delete this class of data of the next tasks of an application, `limit` at most."""
    position = retention_progress.lock(connection, application_id, group.data)
    found = retention.following(connection, application_id, position, group.ended_before, limit)
    if not found:
        return _finish(connection, group.data, application_id)
    task_ids = sorted(row.subject for row in found)
    tasks.lock(connection, task_ids)
    due = retention.ended(connection, task_ids, group.ended_before)
    deleted, is_complete = _DELETE[group.data](connection, due, group.ended_before, now) if due else (0, True)
    if is_complete:
        retention_progress.advance(connection, application_id, group.data, found[-1])
    return Batch(len(found), deleted, is_last=False)


def _finish(connection: Connection, data: DataClass, application_id: str) -> Batch:
    if data is DataClass.TASKS:  # those that were left, for a delivery that waited, are examined again
        retention_progress.advance(connection, application_id, data, START)
    return Batch(0, 0, is_last=True)


def end_late(
    connection: Connection, ended_before: Mapping[str, datetime | None], default: datetime | None, limit: int
) -> int:
    """Delete evidence that arrived after that of its task was deleted, among the next `limit` rows.

    `ended_before`: by application, `default` for the others; None: without limit. Return the number of rows deleted.
    """
    latest = max(bound for bound in (*ended_before.values(), default) if bound is not None)
    position = retention_progress.lock(connection, EVERY, _LATE)
    rows = retention.evidence_between(connection, position.subject, latest, limit)
    over = []
    for row in rows:
        bound = ended_before.get(row.application_id, default)
        if bound is not None and row.ended_at is not None and row.ended_at < bound:
            over.append(row.evidence_id)
    retention.delete_evidence_rows(connection, over)
    reached = rows[-1].evidence_id if len(rows) == limit else ""
    retention_progress.advance(connection, EVERY, _LATE, Position(START.ended_at, reached))
    return len(over)


def next_endpoints(connection: Connection, limit: int) -> list[Visited]:
    """Return the endpoints to look at next, `limit` at most; after the last one, the first one again."""
    position = retention_progress.lock(connection, EVERY, _ENDPOINTS)
    found = retention.next_endpoints(connection, position.subject, limit)
    reached = found[-1].endpoint_id if len(found) == limit else ""
    retention_progress.advance(connection, EVERY, _ENDPOINTS, Position(START.ended_at, reached))
    return found


def end_endpoint(connection: Connection, endpoint_id: str, ended_before: datetime | None, now: datetime) -> int:
    """Delete deliveries that ended before this time, and the endpoint if nothing names it. Return how many rows.

    These deliveries ended after the others of their task were deleted, or have no task, as tests. What has waited for a
    paused endpoint for as long is given up, and deleted that long after.
    """
    deleted = 0
    if ended_before is not None:
        waiting_deliveries.give_up_of_endpoint(connection, endpoint_id, ended_before, now, _MAX_ROWS)
        deleted = retention.delete_deliveries_of(connection, endpoint_id, ended_before, _MAX_ROWS)
    endpoint = endpoints.lock_to_delete(connection, endpoint_id)
    if endpoint is None or endpoint.created_at > now - _NEW or retention.is_needed(connection, endpoint):
        return deleted
    endpoints.remove(connection, endpoint_id)
    return deleted + 1


# What deletes a class of data of ended tasks whose locks are held: it returns the number of rows or files, and whether
# nothing is left.
_Delete = Callable[[Connection, Sequence[Task], datetime, datetime], tuple[int, bool]]


def _images(connection: Connection, due: Sequence[Task], _before: datetime, now: datetime) -> tuple[int, bool]:
    keys = retention.mark_images(connection, [task.id for task in due], now)
    removals.request(connection, keys, now)
    return len(keys), True


def _inputs(connection: Connection, due: Sequence[Task], _before: datetime, now: datetime) -> tuple[int, bool]:
    with_inputs = [task for task in due if task.request.images and task.inputs_removed_at is None]
    if not with_inputs:
        return 0, True
    retention.mark_inputs(connection, [task.id for task in with_inputs], now)
    keys = [image.store_key for task in with_inputs for image in task.request.images]
    removals.request(connection, keys, now)
    return len(keys), True


def _evidence(connection: Connection, due: Sequence[Task], before: datetime, _now: datetime) -> tuple[int, bool]:
    task_ids = [task.id for task in due]
    counts = [
        retention.delete_evidence(connection, task_ids, _MAX_ROWS),
        retention.delete_downloads(connection, task_ids, _MAX_ROWS),
        retention.delete_deliveries(connection, task_ids, before, _MAX_ROWS),
    ]
    return sum(counts), max(counts) < _MAX_ROWS


def _tasks(connection: Connection, due: Sequence[Task], _before: datetime, now: datetime) -> tuple[int, bool]:
    """A task with a delivery that waits stays: its application has not heard of its end.

    A paused endpoint does not keep it: what is due for longer than the schedule of retries is given up.
    """
    task_ids = [task.id for task in due]
    waiting_deliveries.give_up_of_tasks(connection, task_ids, now - WEBHOOK_SCHEDULE, now)
    waiting = waiting_deliveries.awaiting_delivery(connection, task_ids)
    over = [task for task in due if task.id not in waiting]
    if over:
        removals.request(connection, erased_tasks.retire(connection, over, now), now)
    return len(over), True


_DELETE: Mapping[DataClass, _Delete] = {
    DataClass.IMAGES: _images,
    DataClass.INPUTS: _inputs,
    DataClass.EVIDENCE: _evidence,
    DataClass.TASKS: _tasks,
}
