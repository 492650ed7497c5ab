"""The moves of a task that no evidence causes: begin, withdraw, store, give up, expire, cancel, resubmit.

Together with `settle` these are all moves. The SQL update of each requires a status from which the move is allowed (see
`rules.task.sources`). A function returns False if the task is in no such status, which is a normal outcome.
"""

from collections.abc import Collection
from datetime import datetime

from app import jobs
from app.db import Connection
from app.db.engine.bulk import DeferredWrites
from app.db.queries import queue
from app.db.queries.apply_changes import TaskChange, apply_changes
from app.db.tables import attempts, results, tasks
from app.db.tables.results import Result
from app.db.tables.tasks import FailureReason
from app.jobs import NewJob, Step
from app.rules.task import Failure, MoneySpent, Status
from app.transitions.admit import admit, release_slots
from app.transitions.announce import Announcement, announce

TOO_LATE = "the task's deadline passed before it was sent to the provider"


def begin(connection: Connection, task_id: str, attempt_id: str, now: datetime) -> bool:
    """Move a queued task to `submitting` for this attempt, before its request is sent. The task must have a slot."""
    if not queue.is_admitted(connection, task_id):
        return False
    if not tasks.move(connection, task_id, Status.SUBMITTING, now, attempt_id=attempt_id):
        return False
    announce(connection, [Announcement(task_id, Status.SUBMITTING)], now)
    return True


def withdraw(connection: Connection, task_id: str, sender: str, now: datetime) -> bool:
    """Return a task to the queue, with its slot and a job, because its attempt certainly was not sent.

    `sender`: the id of the call of `dispatch` that may have begun the attempt; returns False if it did not. Waits for a
    transaction of `begin` that is still open on the server. A task whose cancellation was requested in the meantime is
    cancelled.
    """
    tasks.lock(connection, [task_id])
    task = tasks.get(connection, task_id)
    if task is None or task.status is not Status.SUBMITTING:
        return False
    if not attempts.mark_unsent(connection, task.attempt_id, sender):
        return False
    writes = DeferredWrites(connection)
    apply_changes(writes, {task_id: TaskChange(status=Status.QUEUED)})
    writes.send()
    announce(connection, [Announcement(task_id, Status.QUEUED)], now)
    jobs.enqueue(connection, [NewJob(Step.DISPATCH, task_id, now)])
    cancel_if_requested(connection, task_id, now)
    return True


def store(connection: Connection, result: Result) -> bool:
    """Move a ready task to `stored`, once its image is durable."""
    if not tasks.move(connection, result.task_id, Status.STORED, result.stored_at):
        return False
    results.insert(connection, result)
    announce(connection, [Announcement(result.task_id, Status.STORED)], result.stored_at)
    return True


def give_up(
    connection: Connection, task_id: str, failure: Failure, spent: MoneySpent, detail: str, now: datetime
) -> bool:
    """Fail a task about which no better evidence is expected."""
    reason = FailureReason(failure, spent, detail)
    if not tasks.move(connection, task_id, Status.FAILED, now, reason=reason):
        return False
    announce(connection, [Announcement(task_id, Status.FAILED, failure)], now)
    release_slots(connection, [task_id], now)
    return True


def expire(
    connection: Connection, task_ids: Collection[str], failure: Failure, detail: str, now: datetime
) -> list[str]:
    """Fail those of the tasks that are still queued, at no cost, and return their ids.

    Tasks that another transaction has locked are skipped: they are about to be moved.
    """
    expired = sorted(queue.lock_rows(connection, task_ids))
    if not expired:
        return []
    reason = FailureReason(failure, MoneySpent.NO, detail)
    for task_id in expired:
        tasks.move(connection, task_id, Status.FAILED, now, reason=reason)
    announce(connection, [Announcement(task_id, Status.FAILED, failure) for task_id in expired], now)
    release_slots(connection, expired, now)
    return expired


def cancel(connection: Connection, task_id: str, now: datetime) -> bool:
    """Cancel a queued task. Return False if it is in another status.

    A task that the provider may have received cannot be withdrawn; only the request to cancel it is recorded.
    """
    tasks.lock(connection, [task_id])  # else it could return to `queued` between the two statements, and be sent
    if not tasks.move(connection, task_id, Status.CANCELLED, now):
        tasks.request_cancel(connection, task_id, now)
        return False
    announce(connection, [Announcement(task_id, Status.CANCELLED)], now)
    release_slots(connection, [task_id], now)
    return True


def cancel_if_requested(connection: Connection, task_id: str, now: datetime) -> bool:
    """Cancel a task that has returned to `queued`, if its cancellation was requested while it was being submitted."""
    task = tasks.get(connection, task_id)
    if task is None or task.cancel_requested_at is None or task.status is not Status.QUEUED:
        return False
    return cancel(connection, task_id, now)


def resubmit(connection: Connection, task_id: str, account_id: str, now: datetime) -> bool:
    """Return a failed task to the queue for a new attempt. Only at a person's request: the attempt may cost again."""
    if not tasks.reopen(connection, task_id, now):
        return False
    announce(connection, [Announcement(task_id, Status.QUEUED)], now)
    admit(connection, account_id, now)
    return True
