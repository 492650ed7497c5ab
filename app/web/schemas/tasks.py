"""What the API shows of a task: the shapes in `/openapi.json`, made from rows."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, Field

from app.db.tables.results import Result
from app.db.tables.tasks import Task
from app.rules.task import Failure, MoneySpent, Status


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
        unwanted=task.cancel_requested_at is not None,
        seed=task.seed,
        cost=task.cost,
        failure=_failure(task),
        image=result and _image(result),
        **_times(task),
    )


def _failure(task: Task) -> FailureView | None:
    if task.failure is None or task.money_spent is None:
        return None
    return FailureView(code=task.failure, detail=task.failure_detail, money_spent=task.money_spent)


def _webhook(task: Task) -> WebhookView | None:
    if task.webhook_url is None:
        return None
    return WebhookView(
        url=task.webhook_url, form=task.webhook_form or "provider", events=list(task.webhook_events or ())
    )


def _image(result: Result) -> ImageView:
    return ImageView.model_validate({**asdict(result), "url": f"/v1/tasks/{result.task_id}/image"})


def _times(task: Task) -> dict[str, datetime | None]:
    names = ("created", "submitting", "submitted", "ready", "stored", "failed", "cancelled")
    return {f"{name}_at": getattr(task, f"{name}_at") for name in names}
