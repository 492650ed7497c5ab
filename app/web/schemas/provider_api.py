"""What the drop-in door answers: the provider's own shapes, made from our rows."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.db.tables.tasks import Task
from app.errors import NotFound
from app.rules.task import Failure, Status
from app.web import problems
from app.web.problems import ProviderError

_REASONS = {
    Failure.REQUEST_MODERATED: "Request Moderated",
    Failure.CONTENT_MODERATED: "Content Moderated",
    Failure.PROVIDER_REJECTED: "the provider refused the request",
    Failure.PROVIDER_ERROR: "the provider could not make the image",
    Failure.OUT_OF_CREDITS: "the provider's account is out of credits",
    Failure.UNKNOWN_OUTCOME: "the provider's answer was lost: it may have been charged",
    Failure.ASSET_LOST: "the image was made and could not be fetched",
    Failure.DEADLINE_EXCEEDED: "the task was not started before its deadline",
}
# To callers both are one status: a parser that is known breaks on "Content Moderated". `details` tells them apart.
_MODERATED = frozenset({Failure.REQUEST_MODERATED, Failure.CONTENT_MODERATED})

Shown = Literal["Pending", "Ready", "Error", "Request Moderated"]


_ID = "task_0pgecg895dsecbhvdbps7kfp5o24ifrlbl67c"
_PENDING = {"id": _ID, "status": "Pending", "result": None, "progress": None, "details": None, "preview": None}
_MADE = {
    "sample": f"https://fluxhook.example.com/results/{_ID}.png?expires=1796688000&signature=hLx0...",
    "prompt": "a lighthouse at dawn",
    "seed": 42,
    "start_time": 1796083200.25,
    "end_time": 1796083206.5,
    "duration": 6.25,
}


def _examples(*examples: Mapping[str, Any]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [dict(example) for example in examples]})


class Submitted(BaseModel):
    model_config = _examples(
        {"id": _ID, "polling_url": f"https://fluxhook.example.com/v1/get_result?id={_ID}", "status": "Pending"}
    )

    id: str
    polling_url: Annotated[str, Field(description="Absolute, on the origin and under the path that the caller used.")]
    status: Literal["Pending"] = "Pending"
    webhook_url: Annotated[str | None, Field(description="As it was given; not there without one.")] = None


class Made(BaseModel):
    """A finished image. Under `/flux` the times are there as `startTime` and `endTime` too."""

    sample: Annotated[str, Field(description="The image in our store. Needs no key; each poll gives a fresh link.")]
    prompt: str
    seed: int | None
    start_time: Annotated[float, Field(description="When the provider was asked, in seconds since 1970.")]
    end_time: Annotated[float, Field(description="When the result was known.")]
    duration: Annotated[float, Field(description="Seconds between the two.")]


class Polled(BaseModel):
    """Where a task is. `Ready` means that the image is kept here."""

    model_config = _examples(
        _PENDING,
        {**_PENDING, "status": "Ready", "result": _MADE},
        {
            **_PENDING,
            "status": "Request Moderated",
            "details": {"Moderation Reasons": ["Derivative Works Filter"], "code": "request_moderated"},
            **dict.fromkeys(["error", "message", "detail"], "Derivative Works Filter"),
        },
    )

    id: str
    status: Shown
    result: Made | None = None
    progress: float | None = None
    details: dict[str, Any] | None = None
    preview: dict[str, Any] | None = None
    error: Annotated[str | None, Field(description="Of a failed task alone: why, for people.")] = None
    message: Annotated[str | None, Field(description="The same as `error`.")] = None
    detail: Annotated[str | None, Field(description="The same as `error`.")] = None


class TaskNotFound(BaseModel):
    """The provider's answer for an id that it does not know, with the text where each client family looks for it."""

    id: str
    status: Literal["Task not found"] = "Task not found"
    result: None = None
    progress: None = None
    details: None = None
    type: str
    title: str
    detail: str
    code: str
    message: str
    error: ProviderError


class Credits(BaseModel):
    model_config = _examples({"credits": 1234.5})

    credits: Annotated[float, Field(description="What is left on the provider's account. 1 credit is 0.01 USD.")]


def polled(task: Task, sample: str | None, *, camel_case: bool) -> dict[str, Any]:
    """A task in the provider's words; `sample` is the link to its image, where one is kept."""
    pending: dict[str, Any] = {"id": task.id, "status": "Pending", "result": None, "progress": None}
    pending |= {"details": None, "preview": None}
    if task.status is Status.STORED and sample is not None:
        return pending | {"status": "Ready", "result": _made(task, sample, camel_case=camel_case)}
    return pending | _failed(task) if task.status.final else pending


def task_not_found(task_id: str) -> dict[str, Any]:
    """As the provider says it, and with the members of every error here but `status`, which clients read as a word."""
    told = problems.document(NotFound("Task not found"), HTTPStatus.NOT_FOUND)
    return TaskNotFound.model_validate({**told, "id": task_id, "status": "Task not found"}).model_dump()


def _made(task: Task, sample: str, *, camel_case: bool) -> dict[str, Any]:
    start = (task.submitting_at or task.created_at).timestamp()
    end = max(start, (task.ready_at or task.stored_at or task.created_at).timestamp())
    asked = task.request.get("seed")
    times = {"start_time": start, "end_time": end, "duration": round(end - start, 3)}
    if camel_case:
        times |= {"startTime": start, "endTime": end}
    seed = asked if task.seed is None else task.seed
    return {"sample": sample, "prompt": task.request["prompt"], "seed": seed, **times}


def _failed(task: Task) -> dict[str, Any]:
    if task.failure in _MODERATED:
        reasons = (task.failure_detail or _REASONS[task.failure]).split(", ")
        return {
            "status": "Request Moderated",
            "details": {"Moderation Reasons": reasons, "code": task.failure},
            **_said(", ".join(reasons)),
        }
    why = _why(task)
    return {"status": "Error", "details": {"error": why, "code": task.failure or task.status}, **_said(why)}


def _why(task: Task) -> str:
    if task.status is Status.CANCELLED:
        return "the task was cancelled"
    if task.failure is None:
        return "the image is not kept any more"
    return task.failure_detail or _REASONS[task.failure]


def _said(text: str) -> dict[str, str]:
    """In every place where a known client looks for it."""
    return {"error": text, "message": text, "detail": text}
