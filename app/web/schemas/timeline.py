"""Everything that is known of a task, in order: the shapes in `/openapi.json`, made from rows."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from app.db.tables.attempts import Attempt
from app.db.tables.delivery_attempts import Told
from app.db.tables.downloads import Download
from app.db.tables.evidence import EvidenceRow
from app.db.tables.tasks import Task
from app.rules.task import Effect, Outcome, Said, Status, Witness


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
    """What a witness said, how far it proved itself, and what that did."""

    event: Literal["evidence"] = "evidence"
    at: datetime
    submission_id: str
    witness: Witness
    verdict: str
    said: Said
    effect: Effect
    detail: str | None
    http_status: int | None
    sha256: str
    copies: Annotated[int, Field(description="How often exactly this came.")]
    repaired: Annotated[bool, Field(description="Asking told what no callback had told: polling saved the day.")]
    last_received_at: datetime


class DownloadEntry(BaseModel):
    event: Literal["download"] = "download"
    at: datetime
    outcome: Literal["stored", "kept_aside", "failed"]
    detail: str | None
    ended_at: datetime


class DeliveryEntry(BaseModel):
    """What the task's submitter was to be told, and how far that has come."""

    event: Literal["delivery"] = "delivery"
    at: datetime
    delivery_id: str
    about: Annotated[str, Field(description="The state that the task had come to.")]
    state: Annotated[str, Field(description="`waiting`, `delivered` or `failed`.")]
    detail: Annotated[str | None, Field(description="What was wrong with the last attempt.")]
    attempts: int
    endpoint_state: Annotated[str, Field(description="`active`; nothing is sent to one that is `paused` or `gone`.")]
    ended_at: datetime | None


Entry = Annotated[
    PhaseEntry | SubmissionEntry | EvidenceEntry | DownloadEntry | DeliveryEntry, Field(discriminator="event")
]


class Timeline(BaseModel):
    task_id: str
    entries: list[Entry]


def timeline_view(
    task: Task,
    submissions: Sequence[Attempt],
    testimonies: Sequence[EvidenceRow],
    downloads: Sequence[Download],
    told: Sequence[Told] = (),
) -> Timeline:
    """Everything that is known of a task, in the order in which it happened."""
    entries: list[Entry] = [PhaseEntry(at=at, status=status) for status, at in _phases(task)]
    entries += [_submission(each) for each in submissions if each.sent_at is not None]
    callback_requested = {each.id for each in submissions if each.callback_requested}
    entries += [_evidence(each, callback_requested) for each in testimonies]
    entries += [DownloadEntry.model_validate({**asdict(each), "at": each.started_at}) for each in downloads]
    entries += [
        DeliveryEntry.model_validate({**asdict(each), "about": each.event, "event": "delivery", "at": each.planned_at})
        for each in told
    ]
    return Timeline(task_id=task.id, entries=sorted(entries, key=_moment))


def _moment(entry: Entry) -> tuple[datetime, int]:
    """When it happened; at the same instant the cause stands before what it caused."""
    begun = entry.event == "phase" and entry.status in {Status.QUEUED, Status.SUBMITTING}
    order = ("submission", "evidence", "download", "phase", "delivery")
    return entry.at, -1 if begun else order.index(entry.event)


def _phases(task: Task) -> list[tuple[Status, datetime]]:
    times = {Status.QUEUED: task.created_at} | {
        status: getattr(task, f"{status}_at") for status in Status if status is not Status.QUEUED
    }
    return [(status, at) for status, at in times.items() if at is not None]


def _submission(each: Attempt) -> SubmissionEntry:
    return SubmissionEntry.model_validate({**asdict(each), "submission_id": each.id, "at": each.sent_at})


def _evidence(each: EvidenceRow, callback_requested: set[str]) -> EvidenceEntry:
    told = each.effect is Effect.MOVED and each.said in {Said.READY, Said.FAILED}
    repaired = told and each.witness is Witness.POLL and each.submission_id in callback_requested
    named = {"sha256": each.digest, "at": each.received_at, "repaired": repaired}
    return EvidenceEntry.model_validate({**asdict(each), **named})
