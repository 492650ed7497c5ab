"""The state machine of a task and the rules for evidence. Pure: no I/O, no clock, no third-party imports.

A task is in one `Status`. It has one or more attempts, and three witnesses report on them: the answer to the
submission, callbacks and polls. A provider adapter translates each message into a `Report`. `decide` compares the
report with the `AttemptState` and returns its `Effect` and, if the task moves, the new status.

`MOVES` is the only definition of the allowed transitions. The conditions of SQL updates (see `sources`) and the diagram
in ARCHITECTURE.md derive from it.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

# With the waits of `backoff.SUBMIT`, these tries span about a quarter of an hour, longer than most outages.
MAX_TRIES = 20


class Status(StrEnum):
    """The status of a task."""

    QUEUED = "queued"  # not sent yet, or the provider could not accept it yet
    SUBMITTING = "submitting"  # the request may have been sent; its answer is pending or lost
    SUBMITTED = "submitted"  # accepted by the provider
    READY = "ready"  # the provider has the result; its bytes are not in the image store yet
    STORED = "stored"  # the result is in the image store
    FAILED = "failed"
    CANCELLED = "cancelled"  # cancelled while it was queued

    @property
    def final(self) -> bool:
        """Whether no evidence and no timeout can change this status."""
        return not MOVES[self]


# For each status, the statuses that may follow it.
MOVES: Mapping[Status, frozenset[Status]] = {
    # `submitted` and `ready`: a callback can prove that the provider accepted an attempt that it had seemed to refuse.
    Status.QUEUED: frozenset({Status.SUBMITTING, Status.SUBMITTED, Status.READY, Status.FAILED, Status.CANCELLED}),
    Status.SUBMITTING: frozenset({Status.QUEUED, Status.SUBMITTED, Status.READY, Status.FAILED}),
    Status.SUBMITTED: frozenset({Status.READY, Status.FAILED}),
    Status.READY: frozenset({Status.STORED, Status.FAILED}),
    Status.STORED: frozenset(),
    Status.FAILED: frozenset(),
    Status.CANCELLED: frozenset(),
}

# A final task can still be resubmitted by a person: a new attempt, which returns it to `queued`. Only from these.
RESUBMITTABLE = frozenset({Status.FAILED})


def sources(target: Status) -> frozenset[Status]:
    """Return the statuses from which a task may move to `target`. SQL updates require one of them in their WHERE."""
    return frozenset(status for status, targets in MOVES.items() if target in targets)


class Failure(StrEnum):
    """Why a task failed."""

    REQUEST_MODERATED = "request_moderated"  # the provider's moderation blocked the request
    CONTENT_MODERATED = "content_moderated"  # the provider's moderation blocked the result
    PROVIDER_REJECTED = "provider_rejected"  # the provider rejected the parameters, or the API key for a day
    PROVIDER_ERROR = "provider_error"  # the provider failed the task, or was unavailable for `MAX_TRIES` tries
    OUT_OF_CREDITS = "out_of_credits"  # the provider's account had no credits for a day
    UNKNOWN_OUTCOME = "unknown_outcome"  # no witness shows whether the provider accepted or finished the task
    ASSET_LOST = "asset_lost"  # an input image or the result can no longer be retrieved
    DEADLINE_EXCEEDED = "deadline_exceeded"  # `deadline_at` passed before the task was sent


MODERATED = frozenset({Failure.REQUEST_MODERATED, Failure.CONTENT_MODERATED})


class MoneySpent(StrEnum):
    """Whether a failed task cost money. The providers do not publish what a failed generation costs."""

    NO = "no"  # never accepted
    MAYBE = "maybe"  # accepted, or possibly accepted, without an image
    YES = "yes"  # an image was generated


class Witness(StrEnum):
    """The source of a report."""

    SUBMIT = "submit"  # the answer to the submission
    CALLBACK = "callback"
    POLL = "poll"  # the answer to a status request


class Outcome(StrEnum):
    """What is known about one attempt to submit a task."""

    PLANNED = "planned"  # recorded; nothing has been sent
    UNKNOWN = "unknown"  # the request may have been sent; no answer is known
    ACCEPTED = "accepted"
    REFUSED = "refused"  # the provider refused it, or did not receive it


class Said(StrEnum):
    """The meaning of a message from a witness, independent of the provider's wording."""

    PENDING = "pending"  # accepted, not finished
    READY = "ready"
    FAILED = "failed"  # accepted, then failed
    REFUSED = "refused"  # not accepted, and a retry would not help
    BUSY = "busy"  # not accepted: the provider has no free slot
    UNPAID = "unpaid"  # not accepted: the account is out of credits
    KEY_REFUSED = "key_refused"  # not accepted: the provider refuses the API key
    BLOCKED = "blocked"  # not accepted: a gateway in front of the provider refuses requests
    DOWN = "down"  # not accepted: the provider was unreachable or out of service
    NOT_FOUND = "not_found"  # the provider does not know the task
    LOST = "lost"  # a request of Fluxhook got no usable answer
    UNCLEAR = "unclear"  # a callback that is not understood


class Report(NamedTuple):
    """A message from one witness about one attempt, translated by the provider's adapter.

    `cost` is in credits, never negative. `sample_url` is the link to the result, valid until `sample_expires_at`.
    """

    said: Said
    provider_id: str | None = None
    polling_url: str | None = None
    cost: float | None = None
    sample_url: str | None = None
    sample_expires_at: datetime | None = None
    seed: int | None = None
    failure: Failure | None = None
    detail: str | None = None
    retry_after: timedelta | None = None


class Effect(StrEnum):
    """What a piece of evidence did to its task."""

    MOVED = "moved"  # changed the task's status
    ADOPTED = "adopted"  # kept the status and added the provider's id, the cost or a better link
    CONFIRMED = "confirmed"  # contained nothing new
    HELD = "held"  # proved nothing: the task waits for better evidence and is not resent
    HINTED = "hinted"  # not proven or not understood: changes nothing, triggers a poll
    REJECTED = "rejected"  # forged: changes nothing
    LATE = "late"  # the task was already final
    SUPERSEDED = "superseded"  # about an earlier attempt
    CONTRADICTED = "contradicted"  # conflicts with what is known: stored, not applied, triggers a poll


class AttemptState(NamedTuple):
    """What is known about an attempt and its task when evidence arrives."""

    status: Status  # of the task
    current: bool  # whether this is the task's latest attempt
    outcome: Outcome
    provider_id: str | None = None
    sample_url: str | None = None
    sample_expires_at: datetime | None = None
    cost: float | None = None
    tries: int = 0  # submissions that failed because the provider was down, or refused this task but not others


class Decision(NamedTuple):
    """The effect of a piece of evidence, and the task's new status; `to` is None if the status does not change."""

    effect: Effect
    to: Status | None = None


_NOT_ACCEPTED_YET = frozenset({Said.BUSY, Said.UNPAID, Said.KEY_REFUSED, Said.BLOCKED, Said.DOWN})
_REFUSALS = _NOT_ACCEPTED_YET | {Said.REFUSED}
# A task that is not accepted in one of these ways fails at its last try.
_LIMITED_TRIES = frozenset({Said.DOWN, Said.KEY_REFUSED, Said.BLOCKED})
_MAYBE_ACCEPTED = frozenset({Outcome.ACCEPTED, Outcome.UNKNOWN})


def decide(attempt: AttemptState, report: Report, witness: Witness, now: datetime, *, proven: bool) -> Decision:
    """Decide what a report about an attempt does to its task. The first rule that applies wins:

    1. The task is final: `LATE`. Final states never change.
    2. The attempt is not the latest one: `SUPERSEDED`.
    3. The report is not proven or not understood: `HINTED`.
    4. The task was resubmitted, and the report only repeats how this attempt ended: `SUPERSEDED`.
    5. The report conflicts with what is known: `CONTRADICTED`.
    6. The task is ready and the report brings a result: `ADOPTED` if its link is better, else `CONFIRMED`.
    7. Otherwise the report is applied: `MOVED` with a new status, `ADOPTED` or `CONFIRMED` if the status is the same,
       `HELD` if the report proves nothing.

    `now`: when the report arrived. `proven`: its origin is verified. A result without `sample_expires_at` counts as
    expired at `now`. Forged callbacks do not get here; `settle` gives them the effect `REJECTED`.
    """
    if attempt.status.final:
        return Decision(Effect.LATE)
    if not attempt.current:
        return Decision(Effect.SUPERSEDED)
    if not proven or report.said is Said.UNCLEAR:
        return Decision(Effect.HINTED)
    if _repeats_outcome_before_resubmit(attempt, report):
        return Decision(Effect.SUPERSEDED)
    if _contradicts(attempt, report, witness):
        return Decision(Effect.CONTRADICTED)
    if report.said is Said.READY and attempt.status is Status.READY:
        return Decision(_adopted_if(_is_better_link(attempt, report, witness, now)))
    return _apply(attempt, report)


def money_spent(outcome: Outcome, said: Said) -> MoneySpent:
    """Return whether a task that fails because of this report cost money. `outcome`: of the attempt, before it."""
    refused = said in _REFUSALS and outcome is not Outcome.ACCEPTED
    return MoneySpent.NO if refused else MoneySpent.MAYBE


def new_cost(attempt: AttemptState, report: Report, witness: Witness) -> float | None:
    """Return the cost of the attempt that the report states, or None if it changes nothing. The report must be proven.

    The last stated cost counts, also 0. The submission's answer states an estimate, and so does an interim report:
    neither replaces what a callback or a poll has stated about the outcome, because it may arrive after that.
    """
    if report.cost is None or report.cost == attempt.cost:
        return None
    if attempt.cost is None:
        return report.cost
    interim = report.said is Said.PENDING and (attempt.status.final or attempt.status is Status.READY)
    return None if witness is Witness.SUBMIT or interim else report.cost


def _repeats_outcome_before_resubmit(attempt: AttemptState, report: Report) -> bool:
    """Return whether the task was resubmitted and the report only repeats how the attempt ended before.

    Only a resubmitted task is queued although its latest attempt was not refused. A result of that attempt still
    counts, and so does the first proof that the provider accepted it.
    """
    resubmitted = attempt.status is Status.QUEUED and attempt.outcome in _MAYBE_ACCEPTED
    acceptance_known = report.said is Said.PENDING and attempt.outcome is Outcome.ACCEPTED
    return resubmitted and (report.said is Said.FAILED or acceptance_known)


def _contradicts(attempt: AttemptState, report: Report, witness: Witness) -> bool:
    # Only a callback's id can conflict. The answer to a submission or poll is about the task of the request, and a
    # reseller may return its supplier's id in both.
    other_id = (
        witness is Witness.CALLBACK
        and report.provider_id is not None
        and attempt.provider_id is not None
        and report.provider_id != attempt.provider_id
    )
    refused_after_accepted = report.said in _REFUSALS and attempt.outcome is Outcome.ACCEPTED
    failed_after_ready = report.said is Said.FAILED and attempt.status is Status.READY
    return other_id or refused_after_accepted or failed_after_ready


def _apply(attempt: AttemptState, report: Report) -> Decision:
    """Apply a proven, consistent report to a task that is not final."""
    match report.said:
        case Said.READY:
            return Decision(Effect.MOVED, Status.READY)
        case Said.PENDING if attempt.status in {Status.QUEUED, Status.SUBMITTING}:
            return Decision(Effect.MOVED, Status.SUBMITTED)
        case Said.PENDING:
            return Decision(_adopted_if(report.provider_id not in {None, attempt.provider_id}))
        case Said.FAILED | Said.REFUSED:
            return Decision(Effect.MOVED, Status.FAILED)
        case said if said in _NOT_ACCEPTED_YET and attempt.status is Status.SUBMITTING:
            last_try = said in _LIMITED_TRIES and attempt.tries + 1 >= MAX_TRIES
            return Decision(Effect.MOVED, Status.FAILED if last_try else Status.QUEUED)
        case _:
            return Decision(Effect.HELD)


def _is_better_link(attempt: AttemptState, report: Report, witness: Witness, now: datetime) -> bool:
    """Return whether the report's link should replace the known one.

    A callback may be delayed or replayed, so its link must expire later than the known one. The answer to a poll is
    current, so its link only has to be alive: the known link may expire earlier than it claims.
    """
    if report.sample_url == attempt.sample_url:
        return False
    known_expiry = attempt.sample_expires_at
    if known_expiry is not None and witness is Witness.POLL:
        known_expiry = min(known_expiry, now)
    new_expiry = report.sample_expires_at or now
    return known_expiry is None or new_expiry > known_expiry


def _adopted_if(something_new: bool) -> Effect:
    return Effect.ADOPTED if something_new else Effect.CONFIRMED
