"""Upkeep, every few seconds: what no event would ever start.

Deadlines pass, remembered answers grow old; and whatever should be impossible is looked for, mended and counted.
"""

from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from functools import partial

from app import jobs
from app.db import Connection
from app.db.queries import queue
from app.db.tables import deliveries, events, idempotency_keys, provider_accounts, tasks
from app.db.tables.provider_accounts import Account
from app.jobs import Step
from app.resources import Resources
from app.rules.backoff import UNPAID
from app.rules.task import Failure, Status
from app.telemetry import logs, metrics
from app.transitions import moves
from app.transitions.admit import admit
from app.transitions.idempotency import REMEMBERED
from app.worker.retention import prune

EVERY = timedelta(seconds=10)
EVENTS_KEPT = timedelta(days=7)  # who was away for longer is told so
NO_TASK = "-"  # the job is about none
_NOTED = timedelta(hours=1)  # how long the engine's own notes of past jobs are of use
_LATE = timedelta(seconds=30)  # what has been due for longer was not just about to be done
_AT_ONCE = 50  # tasks that one transaction ends
_OUT_OF_CREDITS = timedelta(hours=24)  # how long a task waits for somebody to pay

_NEEDS = {
    Status.QUEUED: Step.DISPATCH,
    Status.SUBMITTING: Step.RECONCILE,
    Status.SUBMITTED: Step.RECONCILE,
    Status.READY: Step.COLLECT,
}

log = logs.get("sweep")


async def sweep(use: Resources, _task_id: str) -> None:
    """Do the upkeep once, and leave the next time."""
    await _end_overdue(use)
    missing = await use.db.read(unscheduled)
    mended = await use.db.write(lambda connection: upkeep(connection, use.now(), missing))
    if mended:
        metrics.tasks_unscheduled.inc(len(mended))
        log.error("unscheduled", task_ids=mended)
    await prune(use)


async def _end_overdue(use: Resources) -> None:
    """End what has waited for too long, few at a time: callbacks wait for no more than one of these transactions."""
    for find, failure, detail in (
        (late, Failure.DEADLINE_EXCEEDED, moves.TOO_LATE),
        (unpaid, Failure.OUT_OF_CREDITS, "the provider's account was out of credits for a day"),
    ):
        overdue = await use.db.read(partial(find, now=use.now()))
        for first in range(0, len(overdue), _AT_ONCE):
            some = partial(find, now=use.now(), among=overdue[first : first + _AT_ONCE])
            await use.db.write(partial(_end, some=some, failure=failure, detail=detail, now=use.now()))


def _end(
    connection: Connection, some: Callable[[Connection], list[str]], failure: Failure, detail: str, now: datetime
) -> None:
    """End those that are found still: somebody may have paid meanwhile."""
    moves.expire(connection, some(connection), failure, detail, now)


def late(connection: Connection, now: datetime, among: Collection[str] | None = None) -> list[str]:
    """Tasks whose deadline has passed in the queue."""
    return queue.past_deadline(connection, now, among)


def unpaid(connection: Connection, now: datetime, among: Collection[str] | None = None) -> list[str]:
    """Tasks that have waited for a day in an account that was refused then and a day later, and not heard of since.

    Whether somebody has paid since the last refusal only the next try can tell: it is due when the pause is over.
    """
    empty = [each.id for each in provider_accounts.paused(connection, now) if _was_empty_for_a_day(each)]
    return queue.waiting_since(connection, empty, now - _OUT_OF_CREDITS, among) if empty else []


def _was_empty_for_a_day(account: Account) -> bool:
    since, until = account.refused_since_at, account.paused_until_at
    if account.pause_reason != provider_accounts.OUT_OF_CREDITS or since is None or until is None:
        return False
    return until - UNPAID.longest >= since + _OUT_OF_CREDITS


def upkeep(connection: Connection, now: datetime, missing: list[tuple[Step, str]]) -> list[str]:
    """What one sweep changes; what was mended of what should be impossible."""
    events.prune(connection, now - EVENTS_KEPT)
    jobs.enqueue(connection, [(Step.SWEEP, NO_TASK, now + EVERY)])
    jobs.prune(connection, now - _NOTED)
    idempotency_keys.forget_before(connection, now - REMEMBERED)
    jobs.enqueue(connection, [(step, task_id, now) for step, task_id in missing])
    return [subject for _, subject in missing] + _mend_queues(connection, now)


def unscheduled(connection: Connection) -> list[tuple[Step, str]]:
    """The tasks, and the endpoints that something waits for, that should have a job and have none.

    Looked for at one instant: between two statements of a writing unit, others move tasks and finish their jobs.
    """
    missing = []
    for status, step in _NEEDS.items():
        ids = queue.admitted(connection) if status is Status.QUEUED else tasks.ids_in(connection, status)
        missing += [(step, task_id) for task_id in sorted(ids - jobs.scheduled(connection, step, ids))]
    awaited = deliveries.awaited(connection)
    missing += [(Step.NOTIFY, each) for each in sorted(awaited - jobs.scheduled(connection, Step.NOTIFY, awaited))]
    return missing


def _mend_queues(connection: Connection, now: datetime) -> list[str]:
    """Free what can hold no slot, and admit what could have been admitted by an earlier event.

    Unless that is just about to happen.
    """
    reclaimed = sorted(provider_accounts.reclaim(connection))
    if jobs.overdue(connection, Step.ADMIT, now):
        return reclaimed
    account_ids = provider_accounts.all_ids(connection)
    return reclaimed + [each for account_id in account_ids for each in admit(connection, account_id, now - _LATE)]
