"""What a task can be, what may follow what, and what a piece of evidence means for it. Pure.

`MOVES` is the only statement of the allowed moves: the SQL fences and the diagram derive from it.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

# With the waits of `retry.SUBMIT` these last a quarter of an hour: most outages are over by then.
MAX_TRIES = 20


class Status(StrEnum):
    QUEUED = "queued"  # ours; the provider has not been asked, or has refused for now
    SUBMITTING = "submitting"  # the provider is being asked, or its answer was lost
    SUBMITTED = "submitted"  # the provider has it
    READY = "ready"  # the result is known, its bytes are not ours yet
    STORED = "stored"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return not MOVES[self]


MOVES: Mapping[Status, frozenset[Status]] = {
    # A callback may prove that an attempt was accepted after all which the provider had seemed to refuse.
    Status.QUEUED: frozenset({Status.SUBMITTING, Status.SUBMITTED, Status.READY, Status.FAILED, Status.CANCELLED}),
    Status.SUBMITTING: frozenset({Status.QUEUED, Status.SUBMITTED, Status.READY, Status.FAILED}),
    Status.SUBMITTED: frozenset({Status.READY, Status.FAILED}),
    Status.READY: frozenset({Status.STORED, Status.FAILED}),
    Status.STORED: frozenset(),
    Status.FAILED: frozenset(),
    Status.CANCELLED: frozenset(),
}


# Final means that no evidence and no clock moves it. A person may ask for a new attempt at these.
RESUBMITTABLE = frozenset({Status.FAILED})


def sources(target: Status) -> frozenset[Status]:
    """The states from which `target` may be reached: what a fence in SQL has to name."""
    return frozenset(status for status, targets in MOVES.items() if target in targets)


class Failure(StrEnum):
    REQUEST_MODERATED = "request_moderated"
    CONTENT_MODERATED = "content_moderated"
    PROVIDER_REJECTED = "provider_rejected"
    PROVIDER_ERROR = "provider_error"
    OUT_OF_CREDITS = "out_of_credits"
    UNKNOWN_OUTCOME = "unknown_outcome"
    ASSET_LOST = "asset_lost"
    DEADLINE_EXCEEDED = "deadline_exceeded"


class MoneySpent(StrEnum):
    """Whether a failed task cost anything. The providers do not say what a failed generation costs."""

    NO = "no"  # never accepted
    MAYBE = "maybe"  # accepted, or perhaps accepted, and no image came of it
    YES = "yes"  # an image was made


class Witness(StrEnum):
    SUBMIT = "submit"
    CALLBACK = "callback"
    POLL = "poll"


class Outcome(StrEnum):
    """What is known of one attempt to submit."""

    PLANNED = "planned"  # recorded, no byte sent
    UNKNOWN = "unknown"  # bytes may have left, no answer is known
    ACCEPTED = "accepted"
    REFUSED = "refused"  # the provider said no, or could not be reached at all


class Said(StrEnum):
    """What a witness says, whatever its words were."""

    PENDING = "pending"  # the provider has the task and is not done
    READY = "ready"
    FAILED = "failed"
    REFUSED = "refused"  # never accepted, and asking again would change nothing
    BUSY = "busy"  # never accepted: all slots are taken
    UNPAID = "unpaid"  # never accepted: the account is out of credits
    DOWN = "down"  # never accepted: not reached, or out of order
    NOT_FOUND = "not_found"
    LOST = "lost"  # we asked, and no answer came that could be used
    UNCLEAR = "unclear"  # a callback whose words are not known


class Report(NamedTuple):
    """What one witness says about one attempt, in our words."""

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
    """What a piece of evidence did."""

    MOVED = "moved"  # it changed the task's state
    ADOPTED = "adopted"  # the state stood already; it added the provider's id, cost or a fresh link
    CONFIRMED = "confirmed"  # nothing in it was new
    HELD = "held"  # nobody knows yet: the task waits for better evidence, nothing is sent again
    HINTED = "hinted"  # not proven, or not readable: the provider is asked
    REJECTED = "rejected"  # forged
    LATE = "late"  # the task was final
    SUPERSEDED = "superseded"  # about an earlier attempt
    CONTRADICTED = "contradicted"  # at odds with what is known already: kept, not applied


class AttemptState(NamedTuple):
    """What is known of a task and one of its attempts when a piece of evidence arrives."""

    status: Status
    current: bool
    outcome: Outcome
    provider_id: str | None = None
    sample_url: str | None = None
    sample_expires_at: datetime | None = None
    cost: float | None = None
    tries: int = 0  # attempts used up so far


class Decision(NamedTuple):
    """What follows from a piece of evidence; `to` is None where the task's state stays."""

    effect: Effect
    to: Status | None = None


_REFUSALS = frozenset({Said.REFUSED, Said.BUSY, Said.UNPAID, Said.DOWN})
_MAY_HAVE_BEEN_TAKEN = frozenset({Outcome.ACCEPTED, Outcome.UNKNOWN})


def decide(standing: AttemptState, report: Report, witness: Witness, now: datetime, *, proven: bool) -> Decision:
    """What this report moves. Terminal states are final; what cannot be applied is named, never applied.

    `now` is when it came. A link in it says when it dies, or is taken to die at once.
    """
    if standing.status.final:
        return Decision(Effect.LATE)
    if not standing.current:
        return Decision(Effect.SUPERSEDED)
    if not proven or report.said is Said.UNCLEAR:
        return Decision(Effect.HINTED)
    if _was_asked_anew(standing, report):
        return Decision(Effect.SUPERSEDED)
    if _contradicts(standing, report, witness):
        return Decision(Effect.CONTRADICTED)
    if report.said is Said.READY and standing.status is Status.READY:
        return Decision(_adopted(_is_better_link(standing, report, witness, now)))
    return _apply(standing, report)


def money_spent(outcome: Outcome, said: Said) -> MoneySpent:
    """Whether a task that fails on this report cost anything."""
    refused = said in {Said.REFUSED, Said.DOWN} and outcome is not Outcome.ACCEPTED
    return MoneySpent.NO if refused else MoneySpent.MAYBE


def _was_asked_anew(standing: AttemptState, report: Report) -> bool:
    """Whether a person has asked for a new attempt, and this only says again how the last one went.

    Only so is a task queued whose attempt was not refused. A result of that attempt is still welcome, and so is
    the news that the provider has it.
    """
    outlived = standing.status is Status.QUEUED and standing.outcome in _MAY_HAVE_BEEN_TAKEN
    known = report.said is Said.PENDING and standing.outcome is Outcome.ACCEPTED
    return outlived and (report.said is Said.FAILED or known)


def _contradicts(standing: AttemptState, report: Report, witness: Witness) -> bool:
    # Our own requests ask for one task and are answered about it; a reseller may pass on its supplier's id in both.
    other_id = (
        witness is Witness.CALLBACK
        and report.provider_id is not None
        and standing.provider_id is not None
        and report.provider_id != standing.provider_id
    )
    refused_after_accepted = report.said in _REFUSALS and standing.outcome is Outcome.ACCEPTED
    failed_after_ready = report.said is Said.FAILED and standing.status is Status.READY
    return other_id or refused_after_accepted or failed_after_ready


def _apply(standing: AttemptState, report: Report) -> Decision:
    match report.said:
        case Said.READY:
            return Decision(Effect.MOVED, Status.READY)
        case Said.PENDING if standing.status in {Status.QUEUED, Status.SUBMITTING}:
            return Decision(Effect.MOVED, Status.SUBMITTED)
        case Said.PENDING:
            return Decision(_adopted(report.provider_id not in {None, standing.provider_id}))
        case Said.FAILED | Said.REFUSED:
            return Decision(Effect.MOVED, Status.FAILED)
        case Said.BUSY | Said.UNPAID if standing.status is Status.SUBMITTING:
            return Decision(Effect.MOVED, Status.QUEUED)
        case Said.DOWN if standing.status is Status.SUBMITTING:
            used_up = standing.tries + 1 >= MAX_TRIES
            return Decision(Effect.MOVED, Status.FAILED if used_up else Status.QUEUED)
        case _:
            return Decision(Effect.HELD)


def _is_better_link(standing: AttemptState, report: Report, witness: Witness, now: datetime) -> bool:
    """Whether this result brings a link that is worth more than the one that is known.

    A callback may be an old one, held up on its way or sent again by whoever saw it: its link has to outlive the known
    one. The answer to a poll is of this moment: its link need only live, since the known one may promise too much.
    """
    if report.sample_url == standing.sample_url:
        return False
    to_outlive = standing.sample_expires_at
    if to_outlive is not None and witness is Witness.POLL:
        to_outlive = min(to_outlive, now)
    dies_at = report.sample_expires_at or now
    return to_outlive is None or dies_at > to_outlive


def _adopted(something_new: bool) -> Effect:
    return Effect.ADOPTED if something_new else Effect.CONFIRMED
