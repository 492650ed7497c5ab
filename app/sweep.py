"""Upkeep, every few seconds: what no event would ever start.

Deadlines pass, remembered answers grow old; and whatever should be impossible is looked for, mended and counted.
"""

from datetime import datetime, timedelta

from app import jobs, logs, metrics, moves
from app.admit import admit
from app.idempotency import REMEMBERED
from app.jobs import Step
from app.prune import prune
from app.record import Connection, accounts, deliveries, events, idempotency, queue, tasks
from app.resources import Resources
from app.task import Failure, MoneySpent, Status

EVERY = timedelta(seconds=10)
EVENTS_KEPT = timedelta(days=7)  # who was away for longer is told so
NO_TASK = "-"  # the job is about none
_NOTED = timedelta(hours=1)  # how long the engine's own notes of past jobs are of use
_LATE = timedelta(seconds=30)  # what has been due for longer was not just about to be done
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
    missing = await use.db.read(unscheduled)
    mended = await use.db.write(lambda connection: upkeep(connection, use.now(), missing))
    if mended:
        metrics.tasks_unscheduled.inc(len(mended))
        log.error("unscheduled", task_ids=mended)
    await prune(use)


def upkeep(connection: Connection, now: datetime, missing: list[tuple[Step, str]]) -> list[str]:
    """What one sweep changes; what was mended of what should be impossible."""
    events.prune(connection, now - EVENTS_KEPT)
    jobs.enqueue(connection, [(Step.SWEEP, NO_TASK, now + EVERY)])
    jobs.prune(connection, now - _NOTED)
    idempotency.forget_before(connection, now - REMEMBERED)
    for task_id in queue.past_deadline(connection, now):
        detail = "its deadline passed before the provider was asked"
        moves.give_up(connection, task_id, Failure.DEADLINE_EXCEEDED, MoneySpent.NO, detail, now)
    for task_id in queue.unpaid(connection, now - _OUT_OF_CREDITS):
        detail = "the provider's account was out of credits for a day"
        moves.give_up(connection, task_id, Failure.OUT_OF_CREDITS, MoneySpent.NO, detail, now)
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
    """Admit what could have been admitted by an earlier event, unless that is just about to happen."""
    if jobs.overdue(connection, Step.ADMIT, now):
        return []
    return [
        task_id for account_id in accounts.all_ids(connection) for task_id in admit(connection, account_id, now - _LATE)
    ]
