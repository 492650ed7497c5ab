"""What follows from a judged piece of evidence, as data: what is learned, what moves, what is to be done next. Pure.

`settle` puts these together for a group and writes them at once.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from app import ids
from app.db.tables.attempts import AttemptContext
from app.jobs import Step
from app.provider.contract import LINK_LIFE
from app.rules.backoff import SUBMIT
from app.rules.task import Decision, Effect, Failure, Outcome, Report, Said, Status, Witness, money_spent
from app.security.verify import Verdict

_OUTCOMES = {
    Said.PENDING: Outcome.ACCEPTED,
    Said.READY: Outcome.ACCEPTED,
    Said.FAILED: Outcome.ACCEPTED,
    Said.REFUSED: Outcome.REFUSED,
    Said.BUSY: Outcome.REFUSED,
    Said.UNPAID: Outcome.REFUSED,
    Said.DOWN: Outcome.REFUSED,
}


_NEW = frozenset({Effect.MOVED, Effect.ADOPTED})


class Evidence(NamedTuple):
    """What one witness said of one attempt, raw and read. What it says shows nowhere: it is not in its `repr`."""

    submission_id: str
    witness: Witness
    verdict: Verdict
    proven: bool
    report: Report
    body: bytes
    received_at: datetime
    headers: str = "{}"  # as JSON
    http_status: int | None = None

    def __repr__(self) -> str:
        return f"<evidence about {self.submission_id}>"


def told(attempt: AttemptContext, each: Evidence) -> dict[str, Any]:
    """What a proven report tells of its attempt. That it was accepted, its id and its cost are not taken back.

    Once the task has ended, a callback tells nothing more. An answer to a request of ours still says what its id is and
    what it cost, but not how it went.
    """
    report, standing = each.report, attempt.standing
    late = standing.status.final
    if late and each.witness is Witness.CALLBACK:
        return {}
    values: dict[str, Any] = {"polling_url": report.polling_url, "detail": None if late else report.detail}
    if standing.outcome is not Outcome.ACCEPTED:
        values["outcome"] = _OUTCOMES.get(report.said)
    if standing.provider_id is None or each.witness is Witness.SUBMIT:
        values["provider_id"] = report.provider_id
    if standing.cost is None:
        values["cost"] = report.cost
    if each.witness is Witness.SUBMIT:
        values["answered_at"] = each.received_at
    return given(values)


def link_dies_at(each: Evidence) -> datetime:
    """When the link in a result dies: what it says itself, else the contract's ten minutes."""
    return each.report.sample_expires_at or each.received_at + LINK_LIFE


def moved(attempt: AttemptContext, each: Evidence, decision: Decision) -> dict[str, Any]:
    """What the decision changes about the task."""
    report, now = each.report, each.received_at
    change: dict[str, Any] = {}
    if report.said is Said.READY and decision.effect in _NEW:
        # Always both: a fresh link that does not say when it dies must not inherit the old one's end.
        change |= {"sample_url": report.sample_url, "sample_expires_at": link_dies_at(each)}
        change["seed"] = None if report.seed is None else str(report.seed)
    if decision.to is not None:
        change["status"] = decision.to
        change[f"{decision.to}_at"] = now
        change["tries"] = 1 if report.said is Said.DOWN else 0
    if decision.to is Status.QUEUED and report.said is Said.DOWN:
        # Out of order: this task waits. Out of slots or credits: the account does, and the task keeps its place.
        change["dispatch_after_at"] = now + _wait(attempt, report)
    if decision.to is Status.FAILED:
        change["failure"] = report.failure or Failure.PROVIDER_ERROR
        change["failure_detail"] = report.detail
        change["money_spent"] = money_spent(attempt.standing.outcome, report.said)
    return given(change)


def next_jobs(
    attempt: AttemptContext, each: Evidence, decision: Decision, look_after: timedelta
) -> list[tuple[Step, str, datetime]]:
    """The jobs that the decision leaves; `look_after` is how long an accepted task may be silent."""
    now, task_id = each.received_at, attempt.task_id
    match decision:
        case Decision(effect=Effect.MOVED, to=Status.READY):
            return [(Step.COLLECT, task_id, now)]
        case Decision(effect=Effect.ADOPTED) if each.report.said is Said.READY:
            return [(Step.COLLECT, task_id, now)]
        case Decision(effect=Effect.MOVED, to=Status.SUBMITTED):
            return [(Step.RECONCILE, task_id, now + look_after)]
        case Decision(effect=Effect.HELD) if each.report.said is Said.LOST and each.witness is Witness.SUBMIT:
            return [(Step.RECONCILE, task_id, now)]  # which knows for how long it may be held
        case Decision(effect=Effect.HINTED | Effect.CONTRADICTED) if each.witness is Witness.CALLBACK:
            return [(Step.RECONCILE, task_id, now)]
        case _:
            return []


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of these values that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def _wait(attempt: AttemptContext, report: Report) -> timedelta:
    """How long before a task is submitted again: what the provider asked for, else backoff."""
    wait = report.retry_after or SUBMIT.wait(attempt.standing.tries + 1)
    return wait + ids.jitter(wait / 4)
