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
from app.db.tables import attempts, provider_accounts, results, task_updates, tasks
from app.db.tables.results import Result
from app.db.tables.task_updates import FailureReason
from app.errors import Conflict
from app.jobs import NewJob, Step
from app.rules.task import RESUBMITTABLE, Failure, MoneySpent, Outcome, Status
from app.transitions import budgets
from app.transitions.admit import admit, release_slots
from app.transitions.announce import Announcement, announce
from app.transitions.budgets import Price

TOO_LATE = "the task's deadline passed before it was sent to the provider"


def begin(connection: Connection, task_id: str, account_id: str, attempt_id: str, now: datetime) -> bool:
    """Move a queued task to `submitting` for this attempt, before its request is sent to the account.

    The task must have a slot of the account, and its key must not be one whose queued tasks are being cancelled. If the
    account has been paused meanwhile, an account that is not gets the task: nothing has been sent.
    """
    slot = queue.slot_of(connection, task_id)
    if slot is None or slot.account_id != account_id or slot.stopped:
        return False
    is_paused = slot.paused_until_at is not None and slot.paused_until_at > now
    if is_paused and hand_over(connection, task_id, account_id, now, only_to_open=True):
        return False
    if not task_updates.move(connection, task_id, Status.SUBMITTING, now, attempt_id=attempt_id):
        return False
    announce(connection, [Announcement(task_id, Status.SUBMITTING)], now)
    return True


def hand_over(
    connection: Connection, task_id: str, account_id: str, now: datetime, *, only_to_open: bool = False
) -> bool:
    """Free the slot of a queued task in this account, and admit tasks again: another account may take this one.

    `only_to_open`: not unless another account that may take it is not paused. Return whether the slot is freed.
    """
    tasks.lock(connection, [task_id])
    task, slot = tasks.get(connection, task_id), queue.slot_of(connection, task_id)
    if task is None or task.status is not Status.QUEUED or slot is None or slot.account_id != account_id:
        return False
    others = [account for account in provider_accounts.list_configured(connection) if account.id != account_id]
    is_open = any(account.may_take(task.model, task.region) and not account.paused(now) for account in others)
    if only_to_open and not is_open:
        return False
    release_slots(connection, [task_id], now)
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
    if not task_updates.move(connection, result.task_id, Status.STORED, result.stored_at):
        return False
    results.insert(connection, result)
    announce(connection, [Announcement(result.task_id, Status.STORED)], result.stored_at)
    return True


def give_up(
    connection: Connection, task_id: str, failure: Failure, spent: MoneySpent, detail: str, now: datetime
) -> bool:
    """Fail a task about which no better evidence is expected."""
    reason = FailureReason(failure, spent, detail)
    if not task_updates.move(connection, task_id, Status.FAILED, now, reason=reason):
        return False
    announce(connection, [Announcement(task_id, Status.FAILED, failure)], now)
    budgets.settle(connection, [task_id])
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
        task_updates.move(connection, task_id, Status.FAILED, now, reason=reason)
    announce(connection, [Announcement(task_id, Status.FAILED, failure) for task_id in expired], now)
    budgets.settle(connection, expired)
    release_slots(connection, expired, now)
    return expired


def cancel(connection: Connection, task_id: str, now: datetime) -> bool:
    """Cancel a queued task. Return False if it is in another status.

    A task that the provider may have received cannot be withdrawn; only the request to cancel it is recorded.
    """
    tasks.lock(connection, [task_id])  # else it could return to `queued` between the two statements, and be sent
    if not task_updates.move(connection, task_id, Status.CANCELLED, now):
        task_updates.request_cancel(connection, task_id, now)
        return False
    announce(connection, [Announcement(task_id, Status.CANCELLED)], now)
    budgets.settle(connection, [task_id])
    release_slots(connection, [task_id], now)
    return True


def cancel_queued(connection: Connection, task_ids: Collection[str], now: datetime) -> list[str]:
    """Cancel those of the tasks that are still queued, and return their ids.

    Tasks that another transaction has locked are skipped: they are about to be moved.
    """
    cancelled = sorted(queue.lock_rows(connection, task_ids))
    if not cancelled:
        return []
    for task_id in cancelled:
        task_updates.move(connection, task_id, Status.CANCELLED, now)
    announce(connection, [Announcement(task_id, Status.CANCELLED) for task_id in cancelled], now)
    budgets.settle(connection, cancelled)
    release_slots(connection, cancelled, now)
    return cancelled


def cancel_if_requested(connection: Connection, task_id: str, now: datetime) -> bool:
    """Cancel a task that has returned to `queued`, if its cancellation was requested while it was being submitted."""
    return tasks.is_queued_to_be_cancelled(connection, task_id) and cancel(connection, task_id, now)


def resubmit(connection: Connection, task_id: str, now: datetime, price: Price | None = None) -> bool:
    """Return a failed task to the queue for a new attempt. Only at a person's request: the attempt may cost again.

    `price`: what is reserved for it, and by whom. Raises BudgetExceeded, and Conflict if its input images were removed.
    """
    tasks.lock(connection, [task_id])
    task = tasks.get(connection, task_id)
    if task is None or task.status not in RESUBMITTABLE:
        return False
    if task.request.images and task.inputs_removed_at is not None:
        raise Conflict("the input images of the task were removed, because their retention has ended")
    if price is not None:
        last = attempts.of_task(connection, task_id)[-1]
        first = last.number if last.outcome is Outcome.PLANNED else last.number + 1
        budgets.reserve_again(connection, price, task_id, first, now)
        unknown = task.cost is None and task.money_spent is not MoneySpent.NO
        estimated = price.credits + (task.estimated_cost or 0) * unknown
        task_updates.set_estimated_cost(connection, task_id, estimated)
    if not task_updates.reopen(connection, task_id, now):
        return False
    announce(connection, [Announcement(task_id, Status.QUEUED)], now)
    admit(connection, now)
    return True
