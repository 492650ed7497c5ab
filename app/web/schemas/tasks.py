"""Response models of tasks, built from rows."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from app.db.tables.results import Result
from app.db.tables.tasks import Task
from app.rules.request import TaskRequest
from app.rules.task import Failure, MoneySpent, Status


class InputImage(BaseModel):
    field: str
    sha256: str
    media_type: str
    bytes: int
    width: int
    height: int


# The usual types of parameters. A row of the operator may define others, which are shown as they were recorded.
Integer = Annotated[Any, WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "null"}]})]
Text = Annotated[Any, WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "null"}]})]
Boolean = Annotated[Any, WithJsonSchema({"anyOf": [{"type": "boolean"}, {"type": "null"}]})]


class ParamsView(BaseModel):
    """The parameters as they were recorded, with those that only some models have. Null: not given."""

    model_config = ConfigDict(extra="allow")

    prompt: Annotated[str, Field(description="Empty for a model that needs none.")]
    seed: Integer = None
    aspect_ratio: Text = None
    output_format: Text = None
    prompt_upsampling: Boolean = None
    safety_tolerance: Integer = None
    user: Text = None
    images: list[InputImage]


class FailureView(BaseModel):
    code: Failure
    detail: str | None
    money_spent: Annotated[
        MoneySpent,
        Field(
            description="Whether the task cost anything. `no`: the provider never accepted it. `yes`: an image was "
            "generated. `maybe`: it was accepted, or may have been, and no image was generated."
        ),
    ]


class ImageView(BaseModel):
    url: str
    sha256: str
    media_type: str
    bytes: int
    width: Annotated[int | None, Field(description="In pixels; null if it could not be read, also the height.")]
    height: int | None
    unverified_image: Annotated[
        str | None,
        Field(
            description="Why the image could not be verified; null for an image that was decoded completely. The bytes "
            "are stored as the provider delivered them."
        ),
    ]
    content_credentials: Annotated[
        Literal["present", "none"] | None,
        Field(
            description="Whether the image carries a C2PA manifest. If so, it is untouched, because images are stored "
            "byte by byte as they came. Null for an image of an earlier version."
        ),
    ]
    removed_at: Annotated[
        datetime | None,
        Field(description="When the retention of the image ended: its bytes were deleted, and `url` answers 410."),
    ]


class QueueView(BaseModel):
    """The queue position of a task that waits for a slot."""

    position: Annotated[
        int,
        Field(description="Among the waiting tasks of its application, by priority, then by arrival: 1 is the first."),
    ]
    paused_until_at: Annotated[
        datetime | None, Field(description="The end of the pause of the provider's account; null without a pause.")
    ]
    pause_reason: str | None


class WebhookView(BaseModel):
    """Where and how webhooks are sent. The secret is never returned."""

    url: str
    form: str
    events: list[str]


class TaskView(BaseModel):
    """A task. The time of a state is null until the task reaches that state."""

    id: str
    status: Status
    model: str
    provider: str
    watched_by: Annotated[
        Literal["callback", "poll"],
        Field(
            description="How the outcome is learnt: `poll` for a model that accepts no webhook. Without a public URL, "
            "every task is polled."
        ),
    ]
    params: ParamsView
    inputs_removed_at: Annotated[
        datetime | None, Field(description="When the retention of the input images ended: their bytes were deleted.")
    ]
    user: Annotated[str | None, Field(description="The end user; also for models that do not take one.")]
    metadata: Annotated[dict[str, str], Field(description="Your own pairs of texts; empty without any.")]
    warnings: list[str]
    priority: int
    deadline_at: datetime | None
    queue: QueueView | None
    webhook: WebhookView | None
    unwanted: Annotated[bool, Field(description="True if the task was cancelled too late. Its result is kept.")]
    seed: Annotated[int | None, Field(description="The seed of the image, as the provider reported it.")]
    cost: Annotated[float | None, Field(description="Cost in credits, as the provider reported it.")]
    estimated_cost: Annotated[
        float | None,
        Field(description="What the task counts with in a budget while its cost is unknown, in credits: an estimate."),
    ]
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
    next_cursor: Annotated[
        str | None,
        Field(
            description="Pass it as `cursor` to get the next page; null on the last page. Only null means that there "
            "are no further tasks: see `GET /v1/tasks`."
        ),
    ]


def task_view(task: Task, result: Result | None, queued: QueueView | None = None) -> TaskView:
    return TaskView(
        id=task.id,
        status=task.status,
        model=task.model,
        provider=task.provider,
        watched_by="callback" if task.request.webhook else "poll",
        params=_params(task.request),
        inputs_removed_at=task.inputs_removed_at,
        user=task.user,
        metadata=dict(task.metadata or {}),
        warnings=list(task.warnings),
        priority=task.priority,
        deadline_at=task.deadline_at,
        queue=queued,
        webhook=_webhook(task),
        unwanted=task.cancel_requested_at is not None,
        seed=task.seed,
        cost=task.cost,
        estimated_cost=task.estimated_cost,
        failure=_failure(task),
        image=result and _image(result),
        **_times(task),
    )


def _params(request: TaskRequest) -> ParamsView:
    images = [asdict(image) for image in request.images]
    return ParamsView.model_validate({**request.parameters, "prompt": request.prompt, "images": images})


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
    shown = {"url": f"/v1/tasks/{result.task_id}/image", "content_credentials": credentials_of(result)}
    return ImageView.model_validate({**asdict(result), **shown})


def credentials_of(result: Result) -> Literal["present", "none"] | None:
    if result.content_credentials is None:
        return None
    return "present" if result.content_credentials else "none"


def _times(task: Task) -> dict[str, datetime | None]:
    names = ("created", "submitting", "submitted", "ready", "stored", "failed", "cancelled")
    return {f"{name}_at": getattr(task, f"{name}_at") for name in names}
