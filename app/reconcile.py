"""Poll the provider about a task: its callback is overdue, an unproven callback hinted at it, or evidence conflicts.

The answer is evidence like any other. As long as the task is `submitting` or `submitted`, a next job is scheduled.
"""

from datetime import datetime, timedelta
from typing import NamedTuple

from app import ids, jobs
from app.db import Connection
from app.db.queries import callbacks
from app.db.tables import attempts, evidence, tasks
from app.db.tables.attempts import Attempt
from app.db.tables.tasks import Task
from app.errors import ProviderUnavailable
from app.jobs import NO_JOB, JobEnd, NewJob, Step
from app.provider import Provider, ProviderResponse, Reference, messages, observed
from app.resources import Policy, Resources
from app.rules.task import MODERATED, Effect, Failure, MoneySpent, Said, Status, Witness
from app.settle import settle
from app.telemetry import logs, metrics
from app.transitions import moves
from app.transitions.changes import evidence_of

_WAITING = frozenset({Status.SUBMITTING, Status.SUBMITTED})
_POLLED = _WAITING | {Status.READY}  # a ready task may need a fresh link
_MIN_INTERVAL, _MAX_INTERVAL = timedelta(seconds=1), timedelta(seconds=30)
# The longest `Retry-After` that is honoured: the link to a result lives for ten minutes, from its completion.
_MAX_RETRY_AFTER = timedelta(minutes=2)
_HINT_INTERVAL = timedelta(seconds=5)  # hints make polls more frequent than the schedule, but not more than this
# The time limit of a task, and the detail of its failure. A result after a day is not to be expected.
_TIME_LIMIT = timedelta(hours=24), "no result within a day"

CALLBACKS_MISSING = (
    "no callback arrived for any of the latest tasks, so their results were polled: "
    "is FLUXHOOK_PUBLIC_URL reachable from the provider?"
)
_LATEST_TASKS, _MIN_TASKS = 5, 3  # tasks that are examined, and how many are needed for a conclusion
_OUTCOME_UNKNOWN = "the submit answer was lost, and no later evidence shows whether the provider accepted the task"

log = logs.get("reconcile")


async def reconcile(use: Resources, task_id: str, end: JobEnd = NO_JOB) -> None:
    """Poll one task if the provider can be asked about it; else wait for a callback, and give up at the time limit.

    Raises errors.ProviderUnavailable if no provider key is configured.
    """
    found = await use.db.read(_read, task_id)
    if found is None:
        return
    task, attempt, provider_id, last_polled_at = found
    logs.note(key_id=task.key_id, submission_id=attempt.id)
    account = use.accounts.get(attempt.account_id or task.account_id)
    provider = use.accounts.in_order[0].provider if account is None else account.provider
    if provider is None:
        raise ProviderUnavailable("no provider key is configured")
    next_poll_at = _next_poll_at(attempt, last_polled_at, use.now())
    other_provider = account is None or attempt.provider != provider.spec.name
    ignore_hints = attempt.provider_id is None and (other_provider or _is_in_flight(provider, attempt, use.now()))
    if provider_id is None or ignore_hints:
        await use.db.write(end.after(_await_evidence), use, provider, task.id)
    elif other_provider:
        await use.db.write(end.after(_await_callback), use, task.id, attempt)
    elif next_poll_at is not None:
        await use.db.write(end.after(jobs.enqueue), [NewJob(Step.RECONCILE, task.id, next_poll_at)])
    else:
        await _poll(use, provider, task, attempt, provider_id, end)


def callbacks_are_missing(connection: Connection) -> bool:
    """Return whether no callback arrived for the latest finished tasks that had a callback URL.

    False if there are too few such tasks for a conclusion.
    """
    arrived = callbacks.arrived_recently(connection, _LATEST_TASKS)
    return len(arrived) >= _MIN_TASKS and not any(arrived)


async def _poll(
    use: Resources, provider: Provider, task: Task, attempt: Attempt, provider_id: str, end: JobEnd
) -> None:
    answer = await observed("poll", provider.fetch(Reference(provider_id, attempt.polling_url)))
    repaired = await use.db.write(end.after(_record_answer), use, provider, task, attempt, answer)
    if repaired:
        metrics.tasks_repaired_by_poll.inc()
        log.warning("repaired_by_poll", task_id=task.id, said=answer.report.said)
        if await use.db.read(callbacks_are_missing):
            log.warning("callbacks_missing", detail=CALLBACKS_MISSING)


class _Found(NamedTuple):
    """A task with its latest attempt, the provider's id to poll with, if known, and the time of the last poll."""

    task: Task
    attempt: Attempt
    provider_id: str | None
    last_polled_at: datetime | None


def _read(connection: Connection, task_id: str) -> _Found | None:
    """Return what a poll needs; None if there is nothing to poll for."""
    task = tasks.get(connection, task_id)
    if task is None or not (task.status in _POLLED or task.failure in MODERATED):
        return None
    attempt = attempts.get(connection, task.attempt_id)
    if attempt is None or (task.status is Status.FAILED and not _lacks_reasons(connection, attempt.id)):
        return None
    provider_id = attempt.provider_id or _hinted_id(connection, attempt.id)
    return _Found(task, attempt, provider_id, evidence.last_polled_at(connection, attempt.id))


def _lacks_reasons(connection: Connection, attempt_id: str) -> bool:
    """Return whether only callbacks reported the moderation of an attempt, without its reasons.

    The answer to the poll is stored as late evidence; it changes nothing but the cost.
    """
    reports = evidence.failures(connection, attempt_id)
    is_silent = (r.witness is Witness.CALLBACK and messages.read_reasons(r.body) is None for r in reports)
    return bool(reports) and all(is_silent)


def _hinted_id(connection: Connection, attempt_id: str) -> str | None:
    """Return the provider's id for the task from a callback without proof, as a reference for a poll.

    If the submit answer was lost, nothing else identifies the task at the provider. The sender knew the callback URL,
    which only the provider received. An id that belongs to another attempt is ignored.
    """
    hinted = (messages.read_status(body).provider_id for body in evidence.hints(connection, attempt_id))
    return next((id_ for id_ in hinted if id_ is not None and not attempts.is_known(connection, id_)), None)


def _next_poll_at(attempt: Attempt, last_polled_at: datetime | None, now: datetime) -> datetime | None:
    """Return the earliest time of the next poll; None if that is now. Bounds the polls that hints can cause."""
    if last_polled_at is None:
        return None
    earliest = last_polled_at + min(_wait(now - _sent_at(attempt)), _HINT_INTERVAL)
    return earliest if earliest > now else None


def _await_evidence(connection: Connection, use: Policy, provider: Provider, task_id: str) -> None:
    """Wait for a callback that proves acceptance. After the last possible callback, fail as `unknown_outcome`."""
    tasks.lock(connection, [task_id])
    found = _read(connection, task_id)
    if found is None or found.task.status not in _WAITING or found.attempt.provider_id is not None:
        return  # proof arrived in the meantime
    window = _evidence_window(use, provider, found.task, found.attempt)
    now, until = use.now(), _sent_at(found.attempt) + window
    if _is_in_flight(provider, found.attempt, now):
        until = _answer_deadline(provider, found.attempt)
    if now < until:
        jobs.enqueue(connection, [NewJob(Step.RECONCILE, task_id, until)])
        return
    moves.give_up(connection, task_id, Failure.UNKNOWN_OUTCOME, MoneySpent.MAYBE, _OUTCOME_UNKNOWN, now)


def _await_callback(connection: Connection, use: Policy, task_id: str, attempt: Attempt) -> None:
    """Wait for a callback to an account that is no longer configured: no other account can be asked about the task."""
    tasks.lock(connection, [task_id])
    _schedule_next(connection, task_id, attempt, _TIME_LIMIT, use.now())


def _record_answer(
    connection: Connection,
    use: Policy,
    provider: Provider,
    task: Task,
    attempt: Attempt,
    answer: ProviderResponse,
) -> bool:
    """Settle the answer and schedule the next poll. Return True if the poll replaced a callback that did not arrive."""
    now = use.now()
    # If the signing key has left the keyring, its callbacks are no longer accepted, so its secret need not be redacted.
    known = attempt.signing_key_id in use.keys
    proof = use.keys.callback_proof(attempt.id, attempt.signing_key_id) if known else None
    polled = evidence_of(attempt.id, Witness.POLL, answer, proof, now)
    effects = settle(connection, [polled], poll_after=_MIN_INTERVAL, link_lives=use.catalog.link_lives)
    time_limit, wish = _time_limit(use, provider, task, attempt, answer.report.said), answer.report.retry_after
    _schedule_next(connection, task.id, attempt, time_limit, now, wish or timedelta())
    finished = answer.report.said in {Said.READY, Said.FAILED}
    return attempt.callback_requested and finished and effects == [Effect.MOVED]


def _schedule_next(
    connection: Connection,
    task_id: str,
    attempt: Attempt,
    time_limit: tuple[timedelta, str],
    now: datetime,
    retry_after: timedelta = timedelta(),
) -> None:
    """Schedule the next poll of a task that is still open, or fail it if its time limit has passed.

    `retry_after`: the wait that the provider asked for; it is shortened to two minutes.

    The caller must hold the task's lock. Does nothing if the task has a newer attempt, which has a job of its own.
    """
    task = tasks.get(connection, task_id)
    if task is None or task.status not in _WAITING or task.attempt_id != attempt.id:
        return
    age = now - _sent_at(attempt)
    max_age, reason = time_limit
    if age > max_age:
        moves.give_up(connection, task.id, Failure.UNKNOWN_OUTCOME, MoneySpent.MAYBE, reason, now)
        return
    wait = max(_wait(age), min(retry_after, _MAX_RETRY_AFTER))
    jobs.enqueue(connection, [NewJob(Step.RECONCILE, task.id, now + ids.jittered(wait))])


def _evidence_window(use: Policy, provider: Provider, task: Task, attempt: Attempt) -> timedelta:
    """Return how long a callback may still prove an attempt whose answer was lost: as configured, else as long as its
    model and the callback may take. Zero if no callback was requested.
    """
    if not attempt.callback_requested:
        return timedelta()
    if use.evidence_window is not None:
        return use.evidence_window
    return use.catalog.longest(task.model) + provider.spec.callback_window


def _time_limit(use: Policy, provider: Provider, task: Task, attempt: Attempt, said: Said) -> tuple[timedelta, str]:
    """Return the age at which the task fails if the provider still gives this answer, and the detail of the failure."""
    if said is not Said.NOT_FOUND:
        return _TIME_LIMIT
    if attempt.provider_id is None:  # the poll used an id from a hint, so NOT_FOUND proves little
        return _evidence_window(use, provider, task, attempt), _OUTCOME_UNKNOWN
    # A young task may be unknown in one region and known in another.
    return use.catalog.longest(task.model), "the provider does not know the task any more"


def _wait(age: timedelta) -> timedelta:
    """Return the wait until the next poll of a task of this age."""
    return max(_MIN_INTERVAL, min(age / 4, _MAX_INTERVAL))


def _is_in_flight(provider: Provider, attempt: Attempt, now: datetime) -> bool:
    """Return whether the submit answer may still arrive. It identifies the task more reliably than a hint."""
    answered_already = attempt.provider_id is not None or attempt.answered_at is not None
    return not answered_already and now < _answer_deadline(provider, attempt)


def _answer_deadline(provider: Provider, attempt: Attempt) -> datetime:
    return _sent_at(attempt) + provider.spec.answer_window


def _sent_at(attempt: Attempt) -> datetime:
    return attempt.sent_at or attempt.planned_at
