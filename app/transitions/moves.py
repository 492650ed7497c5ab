"""The moves of a task that no witness causes: it is being asked for, its image is kept, somebody gives it up.

Together with `settle` these are all the moves there are. Each names, through its fence, the states it may
come from; False means that the task is in none of them, which is a normal outcome.
"""

from collections.abc import Collection
from datetime import datetime
from typing import Any

from app.db import Connection
from app.db.queries import queue
from app.db.tables import provider_accounts, results, tasks
from app.rules.task import Failure, MoneySpent, Status
from app.transitions.admit import admit
from app.transitions.announce import Announcement, announce

TOO_LATE = "its deadline passed before the provider was asked"


def begin(connection: Connection, task_id: str, submission_id: str, now: datetime) -> bool:
    """The provider is about to be asked, by this attempt. Only a task that holds a slot may."""
    if not queue.is_admitted(connection, task_id):
        return False
    if not tasks.move(connection, task_id, Status.SUBMITTING, now, submission_id=submission_id):
        return False
    announce(connection, [Announcement(task_id, Status.SUBMITTING)], now)
    return True


def store(connection: Connection, task_id: str, now: datetime, **result: Any) -> bool:
    """The image is on disk: `result` says where and what it is."""
    if not tasks.move(connection, task_id, Status.STORED, now):
        return False
    results.insert(connection, task_id=task_id, stored_at=now, **result)
    announce(connection, [Announcement(task_id, Status.STORED)], now)
    return True


def give_up(
    connection: Connection, task_id: str, failure: Failure, spent: MoneySpent, detail: str, now: datetime
) -> bool:
    """Nothing better will be learned of this task."""
    reason = {"failure": failure, "money_spent": spent, "failure_detail": detail}
    if not tasks.move(connection, task_id, Status.FAILED, now, **reason):
        return False
    announce(connection, [Announcement(task_id, Status.FAILED, failure)], now)
    _hand_on_slots(connection, [task_id], now)
    return True


def expire(
    connection: Connection, task_ids: Collection[str], failure: Failure, detail: str, now: datetime
) -> list[str]:
    """Give up those of these tasks that the provider has not been asked for; the others are in somebody's hands."""
    ended = sorted(queue.lock_rows(connection, task_ids))
    if not ended:
        return []
    reason = {"failure": failure, "money_spent": MoneySpent.NO, "failure_detail": detail}
    for task_id in ended:
        tasks.move(connection, task_id, Status.FAILED, now, **reason)
    announce(connection, [Announcement(task_id, Status.FAILED, failure) for task_id in ended], now)
    _hand_on_slots(connection, ended, now)
    return ended


def cancel(connection: Connection, task_id: str, now: datetime) -> bool:
    """Nobody wants this task any more. One that the provider may have is only marked: it cannot be called back."""
    tasks.lock(connection, [task_id])  # else it could be queued again between the two: marked, and sent all the same
    if not tasks.move(connection, task_id, Status.CANCELLED, now):
        tasks.request_cancel(connection, task_id, now)
        return False
    announce(connection, [Announcement(task_id, Status.CANCELLED)], now)
    _hand_on_slots(connection, [task_id], now)
    return True


def cancel_if_requested(connection: Connection, task_id: str, now: datetime) -> bool:
    """Cancel a task that somebody cancelled while the provider was asked, and that the provider has refused since."""
    task = tasks.get(connection, task_id)
    if task is None or task.cancel_requested_at is None or task.status is not Status.QUEUED:
        return False
    return cancel(connection, task_id, now)


def resubmit(connection: Connection, task_id: str, account_id: str, now: datetime) -> bool:
    """A person wants a new attempt of a task that failed, knowing what it may cost."""
    if not tasks.reopen(connection, task_id, now):
        return False
    announce(connection, [Announcement(task_id, Status.QUEUED)], now)
    admit(connection, account_id, now)
    return True


def _hand_on_slots(connection: Connection, task_ids: Collection[str], now: datetime) -> None:
    """The last that a move does: whoever holds an account waits for nobody who waits for an account."""
    for account_id in sorted(provider_accounts.release(connection, task_ids)):
        admit(connection, account_id, now)
