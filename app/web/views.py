"""What the API shows of a task: the shapes in `/openapi.json`, made from rows."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from app.record.attempts import Told
from app.record.downloads import Download
from app.record.evidence import Testimony
from app.record.results import Result
from app.record.submissions import Submission
from app.record.tasks import Task
from app.task import Effect, Failure, MoneySpent, Outcome, Said, Status, Witness


class InputImage(BaseModel):
    field: str
    sha256: str
    media_type: str
    bytes: int
    width: int
    height: int


class ParamsView(BaseModel):
    prompt: str
    seed: int | None
    aspect_ratio: str | None
    output_format: str
    prompt_upsampling: bool
    safety_tolerance: int
    images: list[InputImage]


class FailureView(BaseModel):
    code: Failure
    detail: str | None
    money_spent: Annotated[
        MoneySpent, Field(description="`no`: never accepted. `yes`: an image was made. `maybe`: nobody says.")
    ]


class ImageView(BaseModel):
    url: str
    sha256: str
    media_type: str
    bytes: int
    width: int
    height: int


class QueueView(BaseModel):
    """Where a queued task stands; null once it has a slot of the provider."""

    position: Annotated[int, Field(description="1 is next, by priority and arrival; keys take turns.")]
    paused_until_at: Annotated[datetime | None, Field(description="Until when the provider's account is left alone.")]
    pause_reason: str | None


class WebhookView(BaseModel):
    """Where the task's submitter wants to be told. Its secret is never shown."""

    url: str
    form: str
    events: list[str]


class TaskView(BaseModel):
    """One task. A phase's time is null until it is reached."""

    id: str
    status: Status
    model: str
    provider: str
    params: ParamsView
    warnings: list[str]
    priority: int
    deadline_at: datetime | None
    queue: QueueView | None
    webhook: WebhookView | None
    unwanted: Annotated[bool, Field(description="Cancelled too late: its result is kept all the same.")]
    seed: Annotated[int | None, Field(description="The seed that made the image, as the provider told it.")]
    cost: Annotated[float | None, Field(description="Credits, as the provider told them.")]
    failure: FailureView | None
    image: ImageView | None
    created_at: datetime
    submitting_at: datetime | None
    submitted_at: datetime | None
    ready_at: datetime | None
    stored_at: datetime | None
    failed_at: datetime | None
    cancelled_at: datetime | None


class TaskList(BaseModel):
    tasks: list[TaskView]
    next_cursor: Annotated[str | None, Field(description="Give it as `cursor` for the tasks before these.")]


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


def task_view(task: Task, result: Result | None, place: QueueView | None = None) -> TaskView:
    return TaskView(
        id=task.id,
        status=task.status,
        model=task.model,
        provider=task.provider,
        params=ParamsView.model_validate(task.request),
        warnings=list(task.warnings),
        priority=task.priority,
        deadline_at=task.deadline_at,
        queue=place,
        webhook=_webhook(task),
        unwanted=task.unwanted_at is not None,
        seed=task.seed,
        cost=task.cost,
        failure=_failure(task),
        image=result and _image(result),
        **_times(task),
    )


def timeline_view(
    task: Task,
    submissions: Sequence[Submission],
    testimonies: Sequence[Testimony],
    downloads: Sequence[Download],
    told: Sequence[Told] = (),
) -> Timeline:
    """Everything that is known of a task, in the order in which it happened."""
    entries: list[Entry] = [PhaseEntry(at=at, status=status) for status, at in _phases(task)]
    entries += [_submission(each) for each in submissions if each.asked_at is not None]
    called_back = {each.id for each in submissions if each.called_back}
    entries += [_evidence(each, called_back) for each in testimonies]
    entries += [DownloadEntry.model_validate({**_fields(each), "at": each.started_at}) for each in downloads]
    entries += [
        DeliveryEntry.model_validate({**_fields(each), "about": each.event, "event": "delivery", "at": each.planned_at})
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


def _submission(each: Submission) -> SubmissionEntry:
    return SubmissionEntry.model_validate({**_fields(each), "submission_id": each.id, "at": each.asked_at})


def _evidence(each: Testimony, called_back: set[str]) -> EvidenceEntry:
    told = each.effect is Effect.MOVED and each.said in {Said.READY, Said.FAILED}
    repaired = told and each.witness is Witness.POLL and each.submission_id in called_back
    named = {"sha256": each.digest, "at": each.received_at, "repaired": repaired}
    return EvidenceEntry.model_validate({**_fields(each), **named})


def _failure(task: Task) -> FailureView | None:
    if task.failure is None or task.money_spent is None:
        return None
    return FailureView(code=task.failure, detail=task.failure_detail, money_spent=task.money_spent)


def _webhook(task: Task) -> WebhookView | None:
    if task.notify_url is None:
        return None
    return WebhookView(url=task.notify_url, form=task.notify_form or "provider", events=list(task.notify_events or ()))


def _image(result: Result) -> ImageView:
    return ImageView.model_validate({**_fields(result), "url": f"/v1/tasks/{result.task_id}/image"})


def _times(task: Task) -> dict[str, datetime | None]:
    names = ("created", "submitting", "submitted", "ready", "stored", "failed", "cancelled")
    return {f"{name}_at": getattr(task, f"{name}_at") for name in names}


def _fields(row: Any) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__dataclass_fields__}
