"""Ask the provider about a task that went quiet, or that an unproven callback hinted at.

Its answer is evidence like any other. Until the task is done there is always a next look.
"""

from datetime import datetime, timedelta

from app import ids, jobs
from app.db import Connection
from app.db.tables import attempts, evidence, tasks
from app.db.tables.attempts import Attempt
from app.db.tables.tasks import Task
from app.errors import Unavailable
from app.jobs import Step
from app.provider import Provider, ProviderResponse, Reference, messages, observed
from app.resources import Resources
from app.rules.task import Effect, Failure, MoneySpent, Said, Status, Witness
from app.settle import answered, settle
from app.telemetry import logs, metrics
from app.transitions import moves

_WAITING = frozenset({Status.SUBMITTING, Status.SUBMITTED})
_OPEN = _WAITING | {Status.READY}  # a ready task may need a fresh link
_SOONEST, _LATEST = timedelta(seconds=1), timedelta(seconds=30)
_HINTS_APART = timedelta(seconds=5)  # however many hints come, a task is not asked about more often
_MARGIN = timedelta(seconds=5)  # past the deadline of a submit, after which no answer to it is kept any more
# A provider that is silent for a day will not speak of this task again.
_SILENT = timedelta(hours=24), "no result in a day"

CALLBACKS_MISSING = (
    "no callback came for any of the latest tasks: is FLUXHOOK_PUBLIC_URL reachable from the provider? "
    "Their results were polled."
)
_LATEST_TASKS, _ENOUGH_TO_TELL = 5, 3
_NOBODY_KNOWS = "the provider's answer was lost, and nothing proved since whether it took the task"

log = logs.get("reconcile")


async def reconcile(use: Resources, task_id: str) -> None:
    """Look at one task: ask where it can be asked for, hold while only a callback can tell, else give up."""
    found = await use.db.read(lambda connection: _read(connection, task_id))
    if found is None:
        return
    provider = use.provider
    if provider is None:
        raise Unavailable("no provider key is configured")
    task, submission, provider_id, last_asked_at = found
    logs.note(key_id=task.key_id, submission_id=submission.id)
    too_soon = _earliest(submission, last_asked_at, use.now())
    elsewhere = submission.provider != provider.spec.name
    no_hints = submission.provider_id is None and (elsewhere or _is_under_way(provider, submission, use.now()))
    if provider_id is None or no_hints:
        await use.db.write(lambda connection: _hold(connection, use, provider, task.id))
    elif elsewhere:
        await use.db.write(lambda connection: _await_callback(connection, use, task.id, submission))
    elif too_soon is not None:
        await use.db.write(lambda connection: jobs.enqueue(connection, [(Step.RECONCILE, task.id, too_soon)]))
    else:
        await _ask(use, provider, task, submission, provider_id)


def callbacks_are_missing(connection: Connection) -> bool:
    """Whether callbacks are configured, and none came for the latest tasks that came out."""
    came = evidence.callbacks_came_lately(connection, _LATEST_TASKS)
    return len(came) >= _ENOUGH_TO_TELL and not any(came)


async def _ask(use: Resources, provider: Provider, task: Task, submission: Attempt, provider_id: str) -> None:
    answer = await observed("poll", provider.fetch(Reference(provider_id, submission.polling_url)))
    repaired = await use.db.write(lambda connection: _keep(connection, use, provider, task, submission, answer))
    if repaired:
        metrics.tasks_repaired_by_poll.inc()
        log.warning("repaired_by_poll", task_id=task.id, said=answer.report.said)
        if await use.db.read(callbacks_are_missing):
            log.warning("callbacks_missing", detail=CALLBACKS_MISSING)


def _read(connection: Connection, task_id: str) -> tuple[Task, Attempt, str | None, datetime | None] | None:
    task = tasks.get(connection, task_id)
    if task is None or task.status not in _OPEN:
        return None
    submission = attempts.get(connection, task.submission_id)
    if submission is None:
        return None
    provider_id = submission.provider_id or _hinted_id(connection, submission.id)
    return task, submission, provider_id, evidence.last_polled_at(connection, submission.id)


def _hinted_id(connection: Connection, submission_id: str) -> str | None:
    """What a callback that proved nothing calls the task whose answer was lost: enough to ask the provider by.

    It knew the address that only the provider was given: of a task whose answer is lost nothing else tells which of the
    provider's it is. An id that another attempt has is not ours all the same.
    """
    named = (messages.read_status(body).provider_id for body in evidence.hints(connection, submission_id))
    return next((each for each in named if each is not None and not attempts.is_known(connection, each)), None)


def _earliest(submission: Attempt, last_asked_at: datetime | None, now: datetime) -> datetime | None:
    """When the provider may be asked again; None when that is now. A flood of hints is no flood of polls."""
    if last_asked_at is None:
        return None
    earliest = last_asked_at + min(_wait(now - _asked_at(submission)), _HINTS_APART)
    return earliest if earliest > now else None


def _hold(connection: Connection, use: Resources, provider: Provider, task_id: str) -> None:
    """Wait for the callback that proves acceptance; when none can come any more, say that nobody knows."""
    tasks.lock(connection, [task_id])
    found = _read(connection, task_id)
    if found is None or found[0].status not in _WAITING or found[1].provider_id is not None:
        return  # what proves it came just now
    now, until = use.now(), _asked_at(found[1]) + use.hold_window
    if _is_under_way(provider, found[1], now):
        until = _answer_by(provider, found[1])
    if now < until:
        jobs.enqueue(connection, [(Step.RECONCILE, task_id, until)])
        return
    moves.give_up(connection, task_id, Failure.UNKNOWN_OUTCOME, MoneySpent.MAYBE, _NOBODY_KNOWS, now)


def _await_callback(connection: Connection, use: Resources, task_id: str, submission: Attempt) -> None:
    """Wait for what a provider has to say that is not asked any more: the one of today knows nothing of this task."""
    tasks.lock(connection, [task_id])
    _look_again(connection, task_id, submission, _SILENT, use.now())


def _keep(
    connection: Connection,
    use: Resources,
    provider: Provider,
    task: Task,
    submission: Attempt,
    answer: ProviderResponse,
) -> bool:
    """Settle the answer and leave the next look; True when it told what a callback should have told."""
    now = use.now()
    # Under a key that left the ring no callback is believed any more, so an echo of its secret gives nothing away.
    known = submission.signing_key_id in use.keys
    proof = use.keys.callback_proof(submission.id, submission.signing_key_id) if known else None
    given = answered(submission.id, Witness.POLL, answer, proof, now)
    effects = settle(connection, [given], look_after=_SOONEST)
    _look_again(connection, task.id, submission, _patience(use, provider, submission, answer.report.said), now)
    told = answer.report.said in {Said.READY, Said.FAILED}
    return submission.callback_requested and told and effects == [Effect.MOVED]


def _look_again(
    connection: Connection, task_id: str, submission: Attempt, patience: tuple[timedelta, str], now: datetime
) -> None:
    """Leave the next look at a task that is still open, or give it up once nothing better can come.

    The task must be locked. One that was submitted anew meanwhile is looked at for its new attempt.
    """
    task = tasks.get(connection, task_id)
    if task is None or task.status not in _WAITING or task.submission_id != submission.id:
        return
    age = now - _asked_at(submission)
    longest, reason = patience
    if age > longest:
        moves.give_up(connection, task.id, Failure.UNKNOWN_OUTCOME, MoneySpent.MAYBE, reason, now)
        return
    wait = _wait(age)
    jobs.enqueue(connection, [(Step.RECONCILE, task.id, now + wait + ids.jitter(wait / 4))])


def _patience(use: Resources, provider: Provider, submission: Attempt, said: Said) -> tuple[timedelta, str]:
    """How old a task may become that the provider says this of, and what is said of it then."""
    if said is not Said.NOT_FOUND:
        return _SILENT
    if submission.provider_id is None:  # it was asked for by the name in a hint: that there is no such task says little
        return use.hold_window, _NOBODY_KNOWS
    # A young task may be unknown in one region and alive in another.
    return provider.spec.slowest_task, "the provider does not know the task any more"


def _wait(age: timedelta) -> timedelta:
    """How long until the next look at a task of this age."""
    return max(_SOONEST, min(age / 4, _LATEST))


def _is_under_way(provider: Provider, submission: Attempt, now: datetime) -> bool:
    """Whether the submit's own answer may still come, which names the task better than any hint."""
    named = submission.provider_id is not None or submission.answered_at is not None
    return not named and now < _answer_by(provider, submission)


def _answer_by(provider: Provider, submission: Attempt) -> datetime:
    return _asked_at(submission) + provider.spec.submit_deadline + _MARGIN


def _asked_at(submission: Attempt) -> datetime:
    return submission.sent_at or submission.planned_at
