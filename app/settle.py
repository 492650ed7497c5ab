"""Evidence in, moves and next jobs out: the one place that changes a task's state by what a witness said.

A group of any size takes a fixed number of statements in one transaction: lock, read, keep the evidence,
write tasks and attempts, leave the jobs. Doing it twice does nothing more.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from app import ids, jobs
from app.jobs import Step
from app.provider import Answer
from app.record import Connection, evidence, submissions, tasks
from app.record.submissions import Attempt
from app.retry import SUBMIT
from app.secret_keys import CallbackProof
from app.task import Decision, Effect, Failure, Outcome, Report, Said, Status, Witness, decide, money_spent
from app.verify import Verdict

_OUTCOMES = {
    Said.PENDING: Outcome.ACCEPTED,
    Said.READY: Outcome.ACCEPTED,
    Said.FAILED: Outcome.ACCEPTED,
    Said.REFUSED: Outcome.REFUSED,
    Said.BUSY: Outcome.REFUSED,
    Said.DOWN: Outcome.REFUSED,
}
# What these say is not known to be true, or not about this attempt: nothing is learned from it.
_NOT_LEARNED = frozenset({Effect.HINTED, Effect.REJECTED, Effect.CONTRADICTED})


# Most images take 5 to 15 seconds, so after this long a callback is overdue; without callbacks we ask sooner.
_CALLBACK_OVERDUE = timedelta(seconds=20)
_FIRST_POLL = timedelta(seconds=1)


@dataclass(frozen=True, slots=True, repr=False)
class Evidence:
    """What one witness said of one attempt, raw and read."""

    submission_id: str
    witness: Witness
    verdict: Verdict
    proven: bool
    report: Report
    body: bytes
    received_at: datetime
    headers: Mapping[str, str] = field(default_factory=dict)
    http_status: int | None = None


def answered(
    submission_id: str, witness: Witness, answer: Answer, proof: CallbackProof | None, now: datetime
) -> Evidence:
    """What a request of ours brought, without the attempt's token and secret should the provider echo them."""
    report, body = answer.report, answer.body
    if proof is not None:
        detail = report.detail and proof.redact(report.detail.encode()).decode()
        report, body = replace(report, detail=detail), proof.redact(body)
    return Evidence(
        submission_id=submission_id,
        witness=witness,
        verdict=Verdict.FETCHED,
        proven=True,
        report=report,
        body=body,
        received_at=now,
        headers=answer.headers,
        http_status=answer.http_status,
    )


def settle(connection: Connection, group: Sequence[Evidence], *, called_back: bool) -> list[Effect | None]:
    """Keep each piece of evidence and do what follows from it; None for one about an unknown attempt.

    `called_back` says whether callbacks are expected, so how soon the provider is asked about a silent task.
    """
    look_after = _CALLBACK_OVERDUE if called_back else _FIRST_POLL
    submission_ids = {each.submission_id for each in group}
    tasks.lock(connection, submissions.task_ids(connection, submission_ids))
    ledger = _Ledger(submissions.attempts(connection, submission_ids), look_after)
    effects = [ledger.take(each) for each in group]
    ledger.write(connection)
    return effects


def hint(connection: Connection, submission_id: str, now: datetime) -> None:
    """Have the provider asked about an attempt, without keeping why."""
    for task_id in submissions.task_ids(connection, {submission_id}):
        jobs.enqueue(connection, [(Step.RECONCILE, task_id, now)])


class _Ledger:
    """What a group changes, put together in memory before it is written at once."""

    def __init__(self, attempts: dict[str, Attempt], look_after: timedelta) -> None:
        self._attempts = attempts
        self._look_after = look_after
        self._kept: dict[tuple[str, ...], dict[str, Any]] = {}
        self._tasks: dict[str, dict[str, Any]] = {}
        self._submissions: dict[str, dict[str, Any]] = {}
        self._jobs: list[tuple[Step, str, datetime]] = []

    def take(self, each: Evidence) -> Effect | None:
        attempt = self._attempts.get(each.submission_id)
        if attempt is None:
            return None
        decision = _judge(attempt, each)
        self._keep(each, decision.effect)
        if each.proven and decision.effect not in _NOT_LEARNED:
            self._learn(attempt, each, decision)
        self._jobs += _next_jobs(attempt, each, decision, self._look_after)
        return decision.effect

    def write(self, connection: Connection) -> None:
        if self._kept:
            evidence.keep(connection, list(self._kept.values()))
        if self._submissions:
            submissions.learn(connection, self._submissions)
        if self._tasks:
            tasks.learn(connection, self._tasks)
        jobs.enqueue(connection, self._jobs)

    def _keep(self, each: Evidence, effect: Effect) -> None:
        digest = hashlib.sha256(each.body).hexdigest()
        key = (each.submission_id, each.witness, each.verdict, digest)
        if key in self._kept:
            self._kept[key]["copies"] += 1
            self._kept[key]["last_received_at"] = each.received_at
            return
        self._kept[key] = {
            "id": ids.new_id("ev", each.received_at),
            "submission_id": each.submission_id,
            "witness": each.witness,
            "verdict": each.verdict,
            "digest": digest,
            "said": each.report.said,
            "effect": effect,
            "detail": each.report.detail,
            "http_status": each.http_status,
            "headers": dict(each.headers),
            "body": each.body,
            "copies": 1,
            "received_at": each.received_at,
            "last_received_at": each.received_at,
        }

    def _learn(self, attempt: Attempt, each: Evidence, decision: Decision) -> None:
        """Note what this tells of the attempt and does to its task, for the rest of the group too."""
        told = _told(attempt, each)
        self._submissions.setdefault(attempt.submission_id, {}).update(told)
        change = _given({"cost": told.get("cost"), **_moved(attempt, each, decision)})
        if change:
            known = self._tasks.setdefault(attempt.task_id, {})
            known |= change | {name: known[name] + change[name] for name in _SUMMED & known.keys() & change.keys()}
        self._advance(attempt, told, change)

    def _advance(self, attempt: Attempt, told: Mapping[str, Any], change: Mapping[str, Any]) -> None:
        standing = replace(attempt.standing, **{name: told[name] for name in told if name in _STANDING})
        self._attempts[attempt.submission_id] = replace(attempt, standing=standing)
        for other_id, other in self._attempts.items():
            if other.task_id == attempt.task_id:
                news = {name: change[name] for name in ("status", "sample_url") if change.get(name)}
                self._attempts[other_id] = replace(other, standing=replace(other.standing, **news))


_STANDING = frozenset({"outcome", "provider_id", "cost"})
_SUMMED = frozenset({"cost", "tries"})  # over all attempts of a task


def _judge(attempt: Attempt, each: Evidence) -> Decision:
    if each.verdict is Verdict.FORGED:
        return Decision(Effect.REJECTED)
    return decide(attempt.standing, each.report, each.witness, proven=each.proven)


def _told(attempt: Attempt, each: Evidence) -> dict[str, Any]:
    """What a proven report tells of its attempt. That it was accepted, its id and its cost are not taken back."""
    report, standing = each.report, attempt.standing
    accepted = standing.outcome is Outcome.ACCEPTED
    named = standing.provider_id is not None and each.witness is not Witness.SUBMIT
    told = {
        "outcome": None if accepted else _OUTCOMES.get(report.said),
        "provider_id": None if named else report.provider_id,
        "polling_url": report.polling_url,
        "cost": report.cost if standing.cost is None else None,
        "detail": report.detail,
        "answered_at": each.received_at if each.witness is Witness.SUBMIT else None,
    }
    return _given(told)


def _moved(attempt: Attempt, each: Evidence, decision: Decision) -> dict[str, Any]:
    """What the decision changes about the task."""
    report = each.report
    change: dict[str, Any] = {}
    if report.said is Said.READY and decision.effect in {Effect.MOVED, Effect.ADOPTED}:
        change |= {"sample_url": report.sample_url, "sample_expires_at": report.sample_expires_at}
        change["seed"] = None if report.seed is None else str(report.seed)
    if decision.to is not None:
        change["status"] = decision.to
        change[f"{decision.to}_at"] = each.received_at
    if decision.to is Status.FAILED:
        change["failure"] = report.failure or Failure.PROVIDER_ERROR
        change["failure_detail"] = report.detail
        change["money_spent"] = money_spent(attempt.standing.outcome, report.said)
    if decision.to is not None and report.said is Said.DOWN:
        change["tries"] = 1
    return change


def _next_jobs(
    attempt: Attempt, each: Evidence, decision: Decision, look_after: timedelta
) -> list[tuple[Step, str, datetime]]:
    now, task_id = each.received_at, attempt.task_id
    match decision:
        case Decision(effect=Effect.MOVED, to=Status.READY):
            return [(Step.COLLECT, task_id, now)]
        case Decision(effect=Effect.ADOPTED) if each.report.said is Said.READY:
            return [(Step.COLLECT, task_id, now)]
        case Decision(effect=Effect.MOVED, to=Status.SUBMITTED):
            return [(Step.RECONCILE, task_id, now + look_after)]
        case Decision(effect=Effect.MOVED, to=Status.QUEUED):
            return [(Step.DISPATCH, task_id, now + _wait(attempt, each.report))]
        case Decision(effect=Effect.HINTED | Effect.CONTRADICTED) if each.witness is Witness.CALLBACK:
            return [(Step.RECONCILE, task_id, now)]
        case _:
            return []


def _wait(attempt: Attempt, report: Report) -> timedelta:
    """How long before a refused task is submitted again: what the provider asked for, else backoff."""
    wait = report.retry_after or SUBMIT.wait(attempt.standing.tries + 1)
    return wait + ids.jitter(wait / 4)


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
