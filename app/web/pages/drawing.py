"""The drawn timeline of a task: one row for each entry, with its bar on a scale that shortens long waits. Pure."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.rules.task import Effect, Outcome, Said, Status, Witness
from app.web.pages import words
from app.web.schemas.timeline import (
    DeliveryEntry,
    DownloadEntry,
    Entry,
    EvidenceEntry,
    PhaseEntry,
    SubmissionEntry,
    Timeline,
)

SCALE = 1000  # units of the drawing
_NO_TIME = timedelta(0)
_LEAST = 6  # the width of an instant
_UNIT = timedelta(milliseconds=50)  # a wait of this length and one of twice the length differ by one step


@dataclass(frozen=True, slots=True)
class Mark:
    """A word in a coloured frame: a state, a verdict or an effect."""

    text: str
    tone: str = ""


@dataclass(frozen=True, slots=True)
class Bar:
    """The place of an entry in time. `start` and `width` are on the scale, from 0 to `SCALE`."""

    at: datetime
    offset: timedelta  # since the task was created
    length: timedelta | None
    start: float
    width: float


@dataclass(frozen=True, slots=True)
class Row:
    """One entry as it is shown."""

    bar: Bar
    kind: str
    title: str
    marks: tuple[Mark, ...] = ()
    text: str = ""  # what it means
    detail: str | None = None  # what was said, by the provider or by an application
    evidence_id: str | None = None
    delivery_id: str | None = None


def draw(timeline: Timeline, now: datetime) -> list[Row]:
    """Return the rows of a timeline, in its order. What has not ended yet lasts until `now`."""
    if not timeline.entries:
        return []
    spans = [(entry.at, _end(entry, now)) for entry in timeline.entries]
    places = _places({instant for span in spans for instant in span})
    began = min(entry.at for entry in timeline.entries)
    sent = {entry.submission_id: entry for entry in timeline.entries if isinstance(entry, SubmissionEntry)}
    return [
        _row(entry, sent, began, end, places[entry.at], places[end])
        for entry, (_, end) in zip(timeline.entries, spans, strict=True)
    ]


def _places(instants: set[datetime]) -> dict[datetime, float]:
    """Place instants on the scale. A wait counts by its logarithm, so that hours do not hide milliseconds."""
    in_order = sorted(instants)
    waits = [math.log2(1 + (later - earlier) / _UNIT) for earlier, later in itertools.pairwise(in_order)]
    total, at, places = sum(waits) or 1, 0.0, {in_order[0]: 0.0}
    for instant, wait in zip(in_order[1:], waits, strict=True):
        at += wait
        places[instant] = at / total * (SCALE - _LEAST)
    return places


def _end(entry: Entry, now: datetime) -> datetime:
    match entry:
        case SubmissionEntry(answered_at=None, outcome=Outcome.UNKNOWN) | DeliveryEntry(ended_at=None):
            end = now
        case SubmissionEntry():
            end = entry.answered_at or entry.at
        case DownloadEntry() | DeliveryEntry():
            end = entry.ended_at or entry.at
        case EvidenceEntry():
            end = entry.last_received_at
        case PhaseEntry():
            end = entry.at
    return max(end, entry.at)


def _row(
    entry: Entry, sent: Mapping[str, SubmissionEntry], began: datetime, end: datetime, start: float, stop: float
) -> Row:
    length = end - entry.at if end > entry.at else None
    bar = Bar(entry.at, entry.at - began, length, round(start, 1), round(max(stop - start, _LEAST), 1))
    match entry:
        case PhaseEntry():
            return Row(bar, kind="phase", title=entry.status.capitalize(), text=PHASES[entry.status])
        case SubmissionEntry():
            title = f"Attempt {entry.number} sent to {entry.provider}"
            marks = (Mark(entry.outcome, _OUTCOMES.get(entry.outcome, "")),)
            return Row(bar, kind="attempt", title=title, marks=marks, text=_accepted(entry), detail=entry.detail)
        case EvidenceEntry():
            return _evidence_row(entry, sent.get(entry.submission_id), bar)
        case DownloadEntry():
            marks = (Mark(DOWNLOADS[entry.outcome], "bad" if entry.outcome == "failed" else "good"),)
            return Row(bar, kind="download", title="Download", marks=marks, detail=entry.detail)
        case DeliveryEntry():
            return _delivery_row(entry, bar)


def _accepted(entry: SubmissionEntry) -> str:
    if entry.outcome is Outcome.ACCEPTED:
        cost = "" if entry.cost is None else f", {entry.cost:g} credits"
        return f"The provider accepted it as {entry.provider_id}{cost}." if entry.provider_id else "Accepted."
    return "No answer is known, so it is not sent again." if entry.outcome is Outcome.UNKNOWN else ""


def _evidence_row(entry: EvidenceEntry, about: SubmissionEntry | None, bar: Bar) -> Row:
    """`about`: the attempt that the evidence is about."""
    verdict = (Mark(entry.verdict.replace("_", " "), _VERDICTS[entry.verdict][0]),)
    marks = (*(verdict if entry.witness is Witness.CALLBACK else ()), Mark(entry.effect, _EFFECTS[entry.effect][0]))
    sentences = [_VERDICTS[entry.verdict][1]] if entry.witness is Witness.CALLBACK else []
    if entry.said is not Said.UNCLEAR:
        sentences.append(f"It says: {SAID[entry.said]}.")
    sentences.append(_EFFECTS[entry.effect][1])
    if entry.repaired:
        sentences.append("A callback was expected and had not arrived: this poll replaced it.")
    if about is not None and entry.witness is not Witness.SUBMIT:
        sentences.append(
            f"Received {words.span(max(entry.at - about.at, _NO_TIME))} after attempt {about.number} was sent."
        )
    if entry.copies > 1:
        sentences.append(f"Received {entry.copies} times.")
    return Row(
        bar,
        kind=entry.witness.value,
        title=_WITNESSES[entry.witness],
        marks=marks,
        text=" ".join(sentences),
        detail=entry.detail,
        evidence_id=entry.evidence_id,
    )


def _delivery_row(entry: DeliveryEntry, bar: Bar) -> Row:
    tone = {"delivered": "good", "failed": "bad"}.get(entry.state, "wait")
    attempts = "not sent yet" if not entry.attempts else f"{entry.attempts} attempt{'s'[: entry.attempts > 1]}"
    stopped = "" if entry.endpoint_state == "active" else f" Its endpoint is {entry.endpoint_state}: nothing is sent."
    return Row(
        bar,
        kind="webhook",
        title=f"Webhook: {entry.about}",
        marks=(Mark(entry.state, tone),),
        text=f"{attempts.capitalize()}.{stopped}",
        detail=entry.detail,
        delivery_id=entry.delivery_id,
    )


PHASES = {
    Status.QUEUED: "Recorded, with an attempt and a callback secret of its own.",
    Status.SUBMITTING: "The request may leave from now on, and is not sent twice.",
    Status.SUBMITTED: "The provider has accepted it.",
    Status.READY: "The provider has the result.",
    Status.STORED: "The image is in the store, whole and synced.",
    Status.FAILED: "No further attempt is made unless you resubmit it.",
    Status.CANCELLED: "It was never sent to the provider.",
}
DOWNLOADS = {"stored": "stored", "kept_aside": "spooled", "failed": "failed"}
SAID = {
    Said.PENDING: "accepted, in progress",
    Said.READY: "the result is ready",
    Said.FAILED: "the task failed",
    Said.REFUSED: "the request is refused",
    Said.BUSY: "there is no free slot",
    Said.UNPAID: "the account is out of credits",
    Said.KEY_REFUSED: "the API key is refused",
    Said.BLOCKED: "a gateway refuses the request",
    Said.DOWN: "the provider is out of service",
    Said.NOT_FOUND: "the task is unknown",
    Said.LOST: "no usable answer",
    Said.UNCLEAR: "unclear",
}
_OUTCOMES = {Outcome.ACCEPTED: "good", Outcome.REFUSED: "bad", Outcome.UNKNOWN: "wait"}
_WITNESSES = {
    Witness.SUBMIT: "Answer to the request",
    Witness.CALLBACK: "Callback",
    Witness.POLL: "Poll of the provider",
}
_VERDICTS = {
    "signed": ("good", "Its signature over the body is valid."),
    "shared_secret": ("good", "It carries the secret of this attempt."),
    "unproven": ("wait", "It carries no signature and no secret, so it counts only as a hint."),
    "forged": ("bad", "Its signature or secret is wrong, so it was answered with 401."),
    "fetched": ("", ""),
}
_EFFECTS = {
    Effect.MOVED: ("good", "It moved the task."),
    Effect.ADOPTED: ("good", "It added a fact that was not known yet."),
    Effect.CONFIRMED: ("", "It contained nothing new."),
    Effect.HELD: ("wait", "The task waits for better evidence, and nothing is resent."),
    Effect.HINTED: ("wait", "It changed nothing, and the provider is polled."),
    Effect.REJECTED: ("bad", "It changed nothing."),
    Effect.LATE: ("", "The task had already ended."),
    Effect.SUPERSEDED: ("", "It is about an earlier attempt."),
    Effect.CONTRADICTED: ("bad", "It conflicts with what is known: the provider is polled."),
}
