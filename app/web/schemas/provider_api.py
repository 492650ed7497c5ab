"""Response models of the provider-compatible API, built from stored tasks."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.db.tables.tasks import Task
from app.errors import NotFound
from app.provider.messages import Reasons
from app.rules.task import MODERATED, Failure, Status
from app.web import problems
from app.web.schemas.problems import ProviderError

_REASONS = {
    Failure.REQUEST_MODERATED: "Request Moderated",
    Failure.CONTENT_MODERATED: "Content Moderated",
    Failure.PROVIDER_REJECTED: "the provider rejected the request",
    Failure.PROVIDER_ERROR: "the provider could not generate the image",
    Failure.OUT_OF_CREDITS: "the provider's account is out of credits",
    Failure.UNKNOWN_OUTCOME: "the provider's answer was lost: the task may have been charged",
    Failure.ASSET_LOST: "the image was generated but could not be downloaded",
    Failure.DEADLINE_EXCEEDED: "the task was not started before its deadline",
}
Shown = Literal["Pending", "Ready", "Error", "Request Moderated", "Content Moderated"]


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
    polling_url: Annotated[
        str, Field(description="Absolute URL on the public origin, or on a private one that the caller used.")
    ]
    status: Literal["Pending"] = "Pending"
    webhook_url: Annotated[str | None, Field(description="As in the request; omitted without one.")] = None
    cost: Annotated[
        float | None, Field(description="In credits; present if it is known already, as in a repeated request.")
    ] = None
    warnings: Annotated[
        list[str] | None,
        Field(description="What the provider may ignore or do otherwise, such as unknown fields; omitted without any."),
    ] = None


class Made(BaseModel):
    """A finished image. Under `/flux`, the times are also present as `startTime` and `endTime`."""

    sample: Annotated[
        str,
        Field(
            description="Signed link to the stored image. It needs no API key and expires; each poll returns a new one."
        ),
    ]
    prompt: str
    seed: Annotated[int | None, Field(description="Omitted if the provider did not report it.")] = None
    start_time: Annotated[
        float, Field(description="When the task was sent to the provider, in seconds since the epoch.")
    ]
    end_time: Annotated[float, Field(description="When the result was known, in seconds since the epoch.")]
    duration: Annotated[float, Field(description="`end_time` minus `start_time`, in seconds.")]


class Polled(BaseModel):
    """The status of a task. `Ready` means that the image is stored in Fluxhook."""

    model_config = _examples(
        _PENDING,
        {**_PENDING, "status": "Ready", "result": _MADE},
        {
            **_PENDING,
            "status": "Content Moderated",
            "details": {"Moderation Reasons": ["Derivative Works Filter"], "code": "content_moderated"},
            **dict.fromkeys(["error", "message", "detail"], "Derivative Works Filter"),
        },
    )

    id: str
    status: Shown
    result: Made | None = None
    progress: float | None = None
    details: dict[str, Any] | None = None
    preview: dict[str, Any] | None = None
    cost: Annotated[float | None, Field(description="In credits; omitted while it is not known.")] = None
    error: Annotated[str | None, Field(description="Human-readable reason; only for a failed task.")] = None
    message: Annotated[str | None, Field(description="The same as `error`.")] = None
    detail: Annotated[str | None, Field(description="The same as `error`.")] = None


class TaskNotFound(BaseModel):
    """The provider's answer for an unknown id, with the error text in every member that a known client reads."""

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

    credits: Annotated[float, Field(description="Remaining credits of the provider's account. 1 credit is 0.01 USD.")]


def polled(task: Task, sample: str | None, reasons: Reasons | None = None, *, camel_case: bool) -> dict[str, Any]:
    """Return a task in the provider's form.

    `sample`: the link to its image, or None without a stored image. `reasons`: why it was moderated, as the provider
    gave it, if it did.
    """
    pending: dict[str, Any] = {"id": task.id, "status": "Pending", "result": None, "progress": None}
    pending |= {"details": None, "preview": None}
    if task.cost is not None:
        pending["cost"] = task.cost
    if task.status is Status.STORED and sample is not None:
        return pending | {"status": "Ready", "result": _made(task, sample, camel_case=camel_case)}
    return pending | _failed(task, reasons) if task.status.final else pending


def task_not_found(task_id: str) -> dict[str, Any]:
    """Return the provider's answer with the members of a `Problem`, except `status`, which clients expect as text."""
    problem = problems.document(NotFound("Task not found"), HTTPStatus.NOT_FOUND)
    return TaskNotFound.model_validate({**problem, "id": task_id, "status": "Task not found"}).model_dump()


def _made(task: Task, sample: str, *, camel_case: bool) -> dict[str, Any]:
    start = (task.submitting_at or task.created_at).timestamp()
    end = max(start, (task.ready_at or task.stored_at or task.created_at).timestamp())
    times = {"start_time": start, "end_time": end, "duration": round(end - start, 3)}
    if camel_case:
        times |= {"startTime": start, "endTime": end}
    seed = task.effective_seed
    # Left out if it is not known: null makes strict clients fail.
    known = {} if seed is None else {"seed": seed}
    return {"sample": sample, "prompt": task.request.prompt, **known, **times}


def _failed(task: Task, reasons: Reasons | None) -> dict[str, Any]:
    if task.failure in MODERATED:
        reasons = reasons or [task.failure_detail or _REASONS[task.failure]]
        text = reasons if isinstance(reasons, str) else ", ".join(reasons)
        return {
            "status": _REASONS[task.failure],
            "details": {"Moderation Reasons": reasons, "code": task.failure},
            **_error_texts(text),
        }
    reason = _reason(task)
    return {
        "status": "Error",
        "details": {"error": reason, "code": task.failure or task.status},
        **_error_texts(reason),
    }


def _reason(task: Task) -> str:
    if task.status is Status.CANCELLED:
        return "the task was cancelled"
    if task.failure is None:
        return "the image is no longer stored"
    return task.failure_detail or _REASONS[task.failure]


def _error_texts(text: str) -> dict[str, str]:
    """Return the text in every member in which a known client looks for it."""
    return {"error": text, "message": text, "detail": text}
