"""What follows from a decision about evidence, as data: changes to the attempt and the task, and the next jobs. Pure.

`settle` collects these for a batch and writes them together.
"""

import json
from dataclasses import replace
from datetime import datetime, timedelta

from app import ids
from app.db.queries.apply_changes import TaskChange
from app.db.queries.attempt_contexts import AttemptContext
from app.db.tables.attempts import AttemptChange
from app.db.tables.evidence import Evidence
from app.jobs import NewJob, Step
from app.provider.contract import ProviderResponse
from app.provider.messages import read_reasons
from app.rules.backoff import SUBMIT
from app.rules.task import (
    MODERATED,
    Decision,
    Effect,
    Failure,
    Outcome,
    Report,
    Said,
    Status,
    Witness,
    money_spent,
    new_cost,
)
from app.security.keyring import CallbackProof
from app.security.verify import Verdict

_OUTCOMES = {
    Said.PENDING: Outcome.ACCEPTED,
    Said.READY: Outcome.ACCEPTED,
    Said.FAILED: Outcome.ACCEPTED,
    Said.REFUSED: Outcome.REFUSED,
    Said.BUSY: Outcome.REFUSED,
    Said.UNPAID: Outcome.REFUSED,
    Said.KEY_REFUSED: Outcome.REFUSED,
    Said.BLOCKED: Outcome.REFUSED,
    Said.DOWN: Outcome.REFUSED,
}


_NEW = frozenset({Effect.MOVED, Effect.ADOPTED})


def evidence_of(
    attempt_id: str, witness: Witness, response: ProviderResponse, proof: CallbackProof | None, now: datetime
) -> Evidence:
    """Return the evidence in a response to a request of ours, received at `now`.

    If the provider echoes the attempt's token or secret, they are redacted.
    """
    report, body = response.report, response.body
    if proof is not None:
        detail = report.detail and proof.redact_text(report.detail)
        report, body = report._replace(detail=detail), proof.redact(body)
    return Evidence(
        attempt_id=attempt_id,
        witness=witness,
        verdict=Verdict.FETCHED,
        proven=True,
        report=report,
        body=body,
        received_at=now,
        headers=json.dumps(dict(response.headers)),
        http_status=response.http_status,
    )


def attempt_change(attempt: AttemptContext, evidence: Evidence) -> AttemptChange:
    """Return what a proven report changes about its attempt. Acceptance and the provider's id are never taken back.

    Once the task is final, a callback adds only the cost, and only if it names the attempt's provider id. An answer to
    a request of ours still adds the id and the cost, but not how the attempt went.
    """
    report, state = evidence.report, attempt.state
    is_late, is_answer = state.status.final, evidence.witness is Witness.SUBMIT
    cost = new_cost(state, report, evidence.witness)
    if is_late and evidence.witness is Witness.CALLBACK:
        named = report.provider_id is not None and report.provider_id == state.provider_id
        return AttemptChange(cost=cost if named else None)
    return AttemptChange(
        outcome=None if state.outcome is Outcome.ACCEPTED else _OUTCOMES.get(report.said),
        provider_id=report.provider_id if state.provider_id is None or is_answer else None,
        polling_url=report.polling_url,
        cost=cost,
        detail=None if is_late else report.detail,
        answered_at=evidence.received_at if is_answer else None,
    )


def cost_change(attempt: AttemptContext, change: AttemptChange) -> float | None:
    """Return what a change to an attempt adds to the cost of its task, the sum over its attempts; may be negative."""
    return None if change.cost is None else change.cost - (attempt.state.cost or 0)


def task_change(attempt: AttemptContext, evidence: Evidence, decision: Decision) -> TaskChange:
    """Return what the decision changes about the task, except its cost (see `cost_change`)."""
    report = evidence.report
    change = TaskChange() if decision.to is None else _move(attempt, evidence, decision.to)
    if report.said is Said.READY and decision.effect in _NEW:
        # Always both: a new link without an expiry must not inherit the expiry of the old one.
        change = replace(
            change,
            sample_url=report.sample_url,
            sample_expires_at=report.sample_expires_at,
            seed=None if report.seed is None else str(report.seed),
        )
    return change


def _move(attempt: AttemptContext, evidence: Evidence, to: Status) -> TaskChange:
    report, now = evidence.report, evidence.received_at
    is_down = report.said is Said.DOWN
    moved = TaskChange(status=to, tries=1 if is_down else 0)
    match to:
        case Status.SUBMITTED:
            return replace(moved, submitted_at=now)
        case Status.READY:
            return replace(moved, ready_at=now)
        case Status.FAILED:
            return replace(
                moved,
                failed_at=now,
                failure=report.failure or Failure.PROVIDER_ERROR,
                failure_detail=report.detail,
                money_spent=money_spent(attempt.state.outcome, report.said),
            )
        case Status.QUEUED if is_down:
            # An outage makes this task wait. Without a slot or credits the account waits, and the task keeps its place.
            return replace(moved, dispatch_after_at=now + _wait(attempt, report))
        case _:
            return moved


def next_jobs(attempt: AttemptContext, evidence: Evidence, decision: Decision, poll_after: timedelta) -> list[NewJob]:
    """Return the jobs that the decision needs. `poll_after` is how long an accepted task may be silent."""
    now, task_id = evidence.received_at, attempt.task_id
    said, witness = evidence.report.said, evidence.witness
    match decision:
        case Decision(effect=Effect.MOVED, to=Status.READY):
            return [NewJob(Step.COLLECT, task_id, now)]
        case Decision(effect=Effect.ADOPTED) if said is Said.READY:
            return [NewJob(Step.COLLECT, task_id, now)]
        case Decision(effect=Effect.MOVED, to=Status.SUBMITTED):
            return [NewJob(Step.RECONCILE, task_id, now + poll_after)]
        case Decision(effect=Effect.MOVED, to=Status.FAILED) if _may_lack_reasons(evidence):
            return [NewJob(Step.RECONCILE, task_id, now)]
        case Decision(effect=Effect.HELD) if said is Said.LOST and witness is Witness.SUBMIT:
            return [NewJob(Step.RECONCILE, task_id, now)]  # it knows how long to wait for evidence
        case Decision(effect=Effect.HINTED | Effect.CONTRADICTED) if witness is Witness.CALLBACK:
            return [NewJob(Step.RECONCILE, task_id, now)]
        case _:
            return []


def _may_lack_reasons(evidence: Evidence) -> bool:
    """Return whether a callback reports a moderation without its reasons, which a poll may still bring."""
    is_moderated = evidence.witness is Witness.CALLBACK and evidence.report.failure in MODERATED
    return is_moderated and read_reasons(evidence.body) is None


def _wait(attempt: AttemptContext, report: Report) -> timedelta:
    """Return how long to wait before the task is submitted again: as the provider asked, else backoff."""
    wait = report.retry_after or SUBMIT.wait(attempt.state.tries + 1)
    return ids.jittered(wait)
