"""Regular maintenance for what no event starts: deadlines, expired rows, and work that lacks a job.

Work without a job should not exist. The sweep finds it, schedules it again and counts it.
"""

from collections.abc import Collection
from datetime import datetime, timedelta
from functools import partial
from typing import Protocol

from app import jobs
from app.db import Connection
from app.db.queries import queue, revoked
from app.db.tables import (
    api_keys,
    budget_periods,
    deliveries,
    erasures,
    events,
    idempotency_keys,
    provider_accounts,
    removals,
    slots,
    tasks,
    undelivered_requests,
    unrecorded_images,
)
from app.db.tables.provider_accounts import Account
from app.jobs import NewJob, Step
from app.resources import JOIN_WINDOW, Resources
from app.rules.task import Failure, Status
from app.telemetry import logs, metrics
from app.transitions import moves
from app.transitions import removals as removing
from app.transitions.admit import BACKOFFS, admit
from app.transitions.idempotency import ANSWER_RETENTION
from app.transitions.tag_users import tag_users
from app.worker.retention import prune

EVERY = timedelta(seconds=10)
EVENTS_RETENTION = timedelta(days=7)  # a reader that was away for longer gets an error
NO_TASK = "-"  # the task id of a job that is not about a task
_BUDGETS_RETENTION = timedelta(days=100)  # after the start of a period: a task of it may still be settled
_JOB_LOG_RETENTION = timedelta(hours=1)  # the log that the job engine keeps of finished jobs
_MISSED_AFTER = timedelta(seconds=30)  # work that is overdue by more was missed, and is not just about to start
_STOPPING = timedelta(minutes=2)  # longer than a request that records a task
UNRECORDED = timedelta(hours=1)  # longer than a request stores images; one that still does is refused
_MAX_UNRECORDED = 1000  # images in one sweep
_BATCH = 50  # tasks to end in one transaction
_MAX_PAUSE = timedelta(hours=24)  # how long a task waits for an account that refuses every task
# How a task fails that has waited for so long, by the reason of the pause.
_REFUSED_FOR_A_DAY = {
    provider_accounts.OUT_OF_CREDITS: (
        Failure.OUT_OF_CREDITS,
        "the provider's account was out of credits for a day",
    ),
    provider_accounts.KEY_REFUSED: (Failure.PROVIDER_REJECTED, "the provider refused the API key for a day"),
    provider_accounts.BLOCKED: (
        Failure.PROVIDER_ERROR,
        "a gateway in front of the provider refused all requests for a day",
    ),
}

_REQUIRED_STEP = {
    Status.QUEUED: Step.DISPATCH,
    Status.SUBMITTING: Step.RECONCILE,
    Status.SUBMITTED: Step.RECONCILE,
    Status.READY: Step.COLLECT,
}


class _Find(Protocol):
    """Takes a connection, the time, and the ids of the tasks to examine; returns the ids of those that are overdue."""

    def __call__(self, connection: Connection, now: datetime, among: Collection[str] | None = None, /) -> list[str]: ...


log = logs.get("sweep")


async def sweep(use: Resources) -> None:
    """Run the maintenance once, and enqueue the next sweep."""
    await _stop_revoked(use)
    await _end_overdue(use)
    missing = await use.db.read(orphaned)
    rescheduled = await use.db.write(maintain, use.now(), missing, use.join_window)
    if rescheduled:
        metrics.orphaned_tasks_recovered.inc(len(rescheduled))
        log.error("unscheduled", task_ids=rescheduled)
    await use.db.write(tag_users, use.now())
    await prune(use)


async def _stop_revoked(use: Resources) -> None:
    """Cancel the queued tasks of revoked keys, in batches.

    A request that was accepted before its key was revoked may still record a task, so each key is looked at for a
    while.
    """
    keys = await use.db.read(api_keys.stopping)
    after = ""
    while keys and (found := await use.db.read(revoked.queued, list(keys), after, _BATCH)):
        await use.db.write(moves.cancel_queued, found, use.now())
        after = found[-1]
    done = [key_id for key_id, disabled_at in keys.items() if disabled_at < use.now() - _STOPPING]
    if done:
        await use.db.write(api_keys.stopped, done)


async def _end_overdue(use: Resources) -> None:
    """End tasks that have waited too long, in batches: a callback waits for one of these transactions at most."""
    refused: list[tuple[_Find, Failure, str]] = [
        (partial(refused_for_a_day, reason=reason), *end) for reason, end in _REFUSED_FOR_A_DAY.items()
    ]
    for find, failure, detail in ((past_deadline, Failure.DEADLINE_EXCEEDED, moves.TOO_LATE), *refused):
        overdue = await use.db.read(find, use.now())
        for first in range(0, len(overdue), _BATCH):
            await use.db.write(_end, find, overdue[first : first + _BATCH], failure, detail, use.now())


def _end(
    connection: Connection, find: _Find, overdue: Collection[str], failure: Failure, detail: str, now: datetime
) -> None:
    """End the tasks that `find` still returns: the provider may have accepted a task since they were read."""
    moves.expire(connection, find(connection, now, overdue), failure, detail, now)


def past_deadline(connection: Connection, now: datetime, among: Collection[str] | None = None) -> list[str]:
    """Return the queued tasks whose deadline has passed."""
    return queue.past_deadline(connection, now, among)


def refused_for_a_day(
    connection: Connection, now: datetime, among: Collection[str] | None = None, *, reason: str
) -> list[str]:
    """Return the tasks that have waited for a day for an account that refused every task for this reason that long.

    Tasks that another account may take are not among them.

    Such an account is paused, and its last refusal came at least a day after its first. Only the next submission, when
    the pause ends, can show whether the reason still holds.
    """
    accounts = provider_accounts.paused(connection, now)
    refusing = [account.id for account in accounts if account.pause_reason == reason and _refused_for_a_day(account)]
    if not refusing:
        return []
    others = provider_accounts.list_configured(connection)
    accepting = [account for account in others if not (account.paused(now) and _refused_for_a_day(account))]
    waiting = queue.waiting_since(connection, refusing, now - _MAX_PAUSE, among)
    return [task.id for task in waiting if not any(account.may_take(task.model, task.region) for account in accepting)]


def _refused_for_a_day(account: Account) -> bool:
    since, until = account.refused_since_at, account.paused_until_at
    if account.pause_reason is None or since is None or until is None:
        return False
    return until - BACKOFFS[account.pause_reason].longest >= since + _MAX_PAUSE


def maintain(
    connection: Connection, now: datetime, missing: list[tuple[Step, str]], join_window: timedelta = JOIN_WINDOW
) -> list[str]:
    """Delete expired rows, and schedule missing work and the next sweep. Return the ids of what was without a job."""
    events.prune(connection, now - EVENTS_RETENTION)
    jobs.enqueue(connection, [NewJob(Step.SWEEP, NO_TASK, now + EVERY)])
    jobs.prune(connection, now - _JOB_LOG_RETENTION)
    idempotency_keys.prune(connection, now - ANSWER_RETENTION)
    undelivered_requests.prune(connection, now - join_window)
    budget_periods.prune(connection, now - _BUDGETS_RETENTION)
    removing.request(connection, unrecorded_images.take(connection, now - UNRECORDED, _MAX_UNRECORDED), now)
    jobs.enqueue(connection, [NewJob(step, task_id, now) for step, task_id in missing])
    return [subject for _, subject in missing] + _repair_queues(connection, now)


def orphaned(connection: Connection) -> list[tuple[Step, str]]:
    """Return the open tasks and the endpoints with waiting deliveries that have no job, with the step they need.

    Must run in a read transaction, which has one snapshot: in a writing one, other transactions move tasks and finish
    jobs between its statements.
    """
    missing = []
    for status, step in _REQUIRED_STEP.items():
        ids = queue.admitted(connection) if status is Status.QUEUED else tasks.ids_in(connection, status)
        missing += [(step, task_id) for task_id in sorted(ids - jobs.scheduled(connection, step, ids))]
    erasure_ids = erasures.open_ids(connection)
    missing += [(Step.ERASE, id_) for id_ in sorted(erasure_ids - jobs.scheduled(connection, Step.ERASE, erasure_ids))]
    if removals.first(connection, 1) and not jobs.scheduled(connection, Step.ERASE, {removing.SUBJECT}):
        missing.append((Step.ERASE, removing.SUBJECT))
    endpoint_ids = deliveries.endpoints_with_waiting(connection)
    without_job = endpoint_ids - jobs.scheduled(connection, Step.NOTIFY, endpoint_ids)
    missing += [(Step.NOTIFY, endpoint_id) for endpoint_id in sorted(without_job)]
    return missing


def _repair_queues(connection: Connection, now: datetime) -> list[str]:
    """Free slots that no task may take any more, and admit tasks that an earlier event should have admitted.

    Nothing is admitted while an ADMIT job is due or running. Return the ids of the tasks concerned.
    """
    reclaimed = sorted(slots.reclaim(connection))
    if jobs.overdue(connection, Step.ADMIT, now):
        return reclaimed
    return reclaimed + admit(connection, now, overdue_by=_MISSED_AFTER)
