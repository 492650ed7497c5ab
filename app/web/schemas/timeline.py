"""Response models of the timeline of a task, built from rows."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from app.db.tables.attempts import Attempt
from app.db.tables.delivery_attempts import DeliverySummary
from app.db.tables.downloads import Download
from app.db.tables.evidence import EvidenceRow
from app.db.tables.tasks import Task
from app.jobs import PlannedJob, Step
from app.rules.task import Effect, Outcome, Said, Status, Witness

# The steps whose jobs are about a task.
STEPS = (Step.DISPATCH, Step.RECONCILE, Step.COLLECT, Step.ERASE)


class PhaseEntry(BaseModel):
    event: Literal["phase"] = "phase"
    at: datetime
    status: Status


class SubmissionEntry(BaseModel):
    event: Literal["submission"] = "submission"
    at: datetime
    submission_id: str
    number: int
    provider: str
    outcome: Outcome
    provider_id: str | None
    cost: float | None
    detail: str | None
    answered_at: datetime | None


class EvidenceEntry(BaseModel):
    """A piece of evidence: what a witness said, how far it proves its origin, and its effect on the task."""

    event: Literal["evidence"] = "evidence"
    at: datetime
    evidence_id: str
    submission_id: str
    witness: Witness
    verdict: str
    said: Said
    effect: Effect
    detail: str | None
    http_status: int | None
    sha256: str
    copies: Annotated[int, Field(description="How often exactly this content was received.")]
    repaired: Annotated[
        bool, Field(description="True if the result came from a poll although a callback was requested.")
    ]
    last_received_at: datetime


class DownloadEntry(BaseModel):
    event: Literal["download"] = "download"
    at: datetime
    outcome: Literal["stored", "kept_aside", "failed"]
    detail: str | None
    ended_at: datetime


class DeliveryEntry(BaseModel):
    """A webhook delivery about the task, with its current state."""

    event: Literal["delivery"] = "delivery"
    at: datetime
    delivery_id: str
    about: Annotated[str, Field(description="The task state that the delivery reports.")]
    state: Annotated[str, Field(description="`waiting`, `delivered` or `failed`.")]
    detail: Annotated[str | None, Field(description="Why the last attempt failed.")]
    attempts: int
    endpoint_state: Annotated[
        str, Field(description="`active`, `paused` or `gone`; nothing is sent to a `paused` or `gone` endpoint.")
    ]
    due_at: Annotated[
        datetime | None, Field(description="The time of the next attempt; null once the delivery has ended.")
    ]
    ended_at: datetime | None


Entry = Annotated[
    PhaseEntry | SubmissionEntry | EvidenceEntry | DownloadEntry | DeliveryEntry, Field(discriminator="event")
]


class NextStep(BaseModel):
    """Work of Fluxhook on the task that is planned or in progress."""

    step: Annotated[
        Literal["dispatch", "reconcile", "collect", "erase"],
        Field(description="`dispatch` sends the task, `reconcile` polls the provider, `collect` downloads the image."),
    ]
    at: Annotated[datetime, Field(description="The earliest time at which it begins or began.")]
    state: Annotated[
        Literal["waiting", "running", "held"],
        Field(description="`held`: a dead letter, which waits for an operator; see `/v1/jobs/held`."),
    ]
    failures: Annotated[int, Field(description="How often it has failed with an unexpected error.")]


class Timeline(BaseModel):
    task_id: str
    entries: list[Entry]
    next: Annotated[
        list[NextStep],
        Field(description="What happens next, in order. A callback may come first, and makes a poll unnecessary."),
    ]


def timeline_view(
    task: Task,
    attempts: Sequence[Attempt],
    evidence: Sequence[EvidenceRow],
    downloads: Sequence[Download],
    deliveries: Sequence[DeliverySummary] = (),
    planned: Sequence[PlannedJob] = (),
) -> Timeline:
    """Return the timeline of a task, in chronological order. Attempts that were never sent are left out.

    `planned`: its jobs, of the steps in `STEPS`.
    """
    entries: list[Entry] = [PhaseEntry(at=at, status=status) for status, at in _phases(task)]
    entries += [_attempt_entry(attempt) for attempt in attempts if attempt.sent_at is not None]
    callback_requested = {attempt.id for attempt in attempts if attempt.callback_requested}
    entries += [_evidence_entry(row, callback_requested) for row in evidence]
    entries += [DownloadEntry.model_validate({**asdict(row), "at": row.started_at}) for row in downloads]
    entries += [
        DeliveryEntry.model_validate(
            {
                **asdict(row),
                "about": row.event,
                "event": "delivery",
                "at": row.planned_at,
                "due_at": row.due_at if row.ended_at is None else None,
            }
        )
        for row in deliveries
    ]
    # A job that is left over when a task has ended does nothing.
    following = [job for job in planned if not task.status.final or job.state == "held"]
    steps = [NextStep.model_validate({**asdict(job), "at": job.run_at}) for job in following]
    return Timeline(task_id=task.id, entries=sorted(entries, key=_sort_key), next=steps)


def _sort_key(entry: Entry) -> tuple[datetime, int]:
    """Sort by time; at the same instant, a cause comes before its effect."""
    starts_attempt = entry.event == "phase" and entry.status in {Status.QUEUED, Status.SUBMITTING}
    order = ("submission", "evidence", "download", "phase", "delivery")
    return entry.at, -1 if starts_attempt else order.index(entry.event)


def _phases(task: Task) -> list[tuple[Status, datetime]]:
    times = {Status.QUEUED: task.created_at} | {
        status: getattr(task, f"{status}_at") for status in Status if status is not Status.QUEUED
    }
    return [(status, at) for status, at in times.items() if at is not None]


def _attempt_entry(attempt: Attempt) -> SubmissionEntry:
    return SubmissionEntry.model_validate({**asdict(attempt), "submission_id": attempt.id, "at": attempt.sent_at})


def _evidence_entry(row: EvidenceRow, callback_requested: set[str]) -> EvidenceEntry:
    brought_result = row.effect is Effect.MOVED and row.said in {Said.READY, Said.FAILED}
    repaired = brought_result and row.witness is Witness.POLL and row.attempt_id in callback_requested
    derived = {
        "evidence_id": row.id,
        "submission_id": row.attempt_id,
        "sha256": row.digest,
        "at": row.received_at,
        "repaired": repaired,
    }
    return EvidenceEntry.model_validate({**asdict(row), **derived})
