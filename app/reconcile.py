"""Ask the provider about a task that went quiet, or that an unproven callback hinted at.

Its answer is evidence like any other. Until the task is done there is always a next look.
"""

from datetime import datetime, timedelta

from app import ids, jobs, moves
from app.errors import Unavailable
from app.jobs import Step
from app.provider import Answer, Promises, Reference
from app.record import Connection, submissions, tasks
from app.record.submissions import Submission
from app.record.tasks import Task
from app.resources import Resources
from app.settle import answered, settle
from app.task import Failure, MoneySpent, Said, Status, Witness

_OPEN = frozenset({Status.SUBMITTING, Status.SUBMITTED, Status.READY})
_SOONEST, _LATEST = timedelta(seconds=1), timedelta(seconds=30)
_GIVE_UP = timedelta(hours=24)  # a provider that is silent for a day will not speak of this task again


async def reconcile(use: Resources, task_id: str) -> None:
    """Look at one task: ask where it can be asked for, hold while only a callback can tell, else give up."""
    found = await use.db.read(lambda connection: _read(connection, task_id))
    if found is None:
        return
    if use.provider is None:
        raise Unavailable("no provider key is configured")
    task, submission = found
    if submission.provider_id is None:
        await use.db.write(lambda connection: _hold(connection, use, task.id))
        return
    answer = await use.provider.fetch(Reference(submission.provider_id, submission.polling_url))
    await use.db.write(lambda connection: _keep(connection, use, task, submission, answer))


def _read(connection: Connection, task_id: str) -> tuple[Task, Submission] | None:
    task = tasks.get(connection, task_id)
    if task is None or task.status not in _OPEN:
        return None
    submission = submissions.get(connection, task.submission_id)
    return None if submission is None else (task, submission)


def _hold(connection: Connection, use: Resources, task_id: str) -> None:
    """Wait for the callback that proves acceptance; when none can come any more, say that nobody knows."""
    tasks.lock(connection, [task_id])
    found = _read(connection, task_id)
    if found is None or found[1].provider_id is not None:
        return  # it came just now
    task, submission = found
    now, until = use.now(), _asked_at(submission) + _hold_window(use)
    if now < until:
        jobs.enqueue(connection, [(Step.RECONCILE, task.id, until)])
        return
    detail = "the provider's answer was lost, and nothing proved since whether it took the task"
    moves.give_up(connection, task.id, Failure.UNKNOWN_OUTCOME, MoneySpent.MAYBE, detail, now)


def _hold_window(use: Resources) -> timedelta:
    """How long a callback may still prove a lost answer; without callbacks nothing ever will."""
    if use.public_url is None or use.provider is None:
        return timedelta()
    promises = use.provider.promises
    return promises.slowest_task + promises.callback_window


def _keep(connection: Connection, use: Resources, task: Task, submission: Submission, answer: Answer) -> None:
    now = use.now()
    # Under a key that left the ring no callback is believed any more, so an echo of its secret gives nothing away.
    known = submission.ring_key in use.keys
    proof = use.keys.callback_proof(submission.id, submission.ring_key) if known else None
    given = answered(submission.id, Witness.POLL, answer, proof, now)
    settle(connection, [given], called_back=use.public_url is not None)
    _look_again(connection, use, task.id, submission, answer.report.said, now)


def _look_again(
    connection: Connection, use: Resources, task_id: str, submission: Submission, said: Said, now: datetime
) -> None:
    """Leave the next look at a task that is still open, or give it up once nothing better can come."""
    task = tasks.get(connection, task_id)
    if task is None or task.status not in {Status.SUBMITTING, Status.SUBMITTED}:
        return
    age = now - _asked_at(submission)
    promises = use.provider.promises if use.provider else None
    if _hopeless(said, age, promises):
        detail = "the provider does not know the task any more" if said is Said.NOT_FOUND else "no result in a day"
        moves.give_up(connection, task.id, Failure.UNKNOWN_OUTCOME, MoneySpent.MAYBE, detail, now)
        return
    wait = max(_SOONEST, min(age / 4, _LATEST))
    jobs.enqueue(connection, [(Step.RECONCILE, task.id, now + wait + ids.jitter(wait / 4))])


def _hopeless(said: Said, age: timedelta, promises: Promises | None) -> bool:
    """Whether polling has nothing left to wait for. A young task may be unknown in one region and alive in another."""
    slowest = promises.slowest_task if promises else _GIVE_UP
    return age > (slowest if said is Said.NOT_FOUND else _GIVE_UP)


def _asked_at(submission: Submission) -> datetime:
    return submission.asked_at or submission.planned_at
