"""Payloads of webhooks in two forms: as the provider's callback, or as an event with the whole task. Pure.

A payload is stored when the event happens, so that every attempt sends the same content. The link to the image is added
when it is sent, because links expire; the prompt is stored with the task alone and is added too.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NotRequired, TypeAlias, TypedDict

from app.db.tables.deliveries import TEST
from app.db.tables.events import BUDGET_WARNING
from app.db.tables.results import Result
from app.db.tables.tasks import Task
from app.rules.budget import BudgetWarning
from app.rules.json_value import JsonObject
from app.rules.task import Failure, MoneySpent, Status

# The provider's own error codes where it has them (webhook guide and error codes of the BFL API).
PROVIDER_CODES = {
    Failure.REQUEST_MODERATED: "content_policy_violation",
    Failure.CONTENT_MODERATED: "content_policy_violation",
    Failure.PROVIDER_REJECTED: "validation_error",
    Failure.PROVIDER_ERROR: "internal_error",
    Failure.OUT_OF_CREDITS: "insufficient_credits",
    Failure.UNKNOWN_OUTCOME: "generation_timeout",
    Failure.DEADLINE_EXCEEDED: "generation_timeout",
    Failure.ASSET_LOST: "internal_error",
}
_MODERATED = {Failure.REQUEST_MODERATED: "Request Moderated", Failure.CONTENT_MODERATED: "Content Moderated"}


class ProviderResult(TypedDict):
    sample: str | None
    prompt: str
    seed: int | None


class BudgetFacts(TypedDict):
    """A budget that is nearly used."""

    budget: JsonObject  # `credits` and `period`
    spent: float
    remaining: float
    resets_at: str


class ProviderPayload(TypedDict):
    """The form of the provider's own callbacks."""

    id: str
    status: str
    result: NotRequired[ProviderResult]  # if the image is stored
    error: NotRequired[str]
    message: NotRequired[str]
    timestamp: str
    type: NotRequired[str]  # and `data`: of a warning about the budget
    data: NotRequired[BudgetFacts]


class EventFailure(TypedDict):
    code: Failure
    detail: str | None
    money_spent: MoneySpent | None


class EventImage(TypedDict):
    url: str | None
    sha256: str
    media_type: str
    bytes: int
    width: int | None  # None, as the height: the image cannot be opened
    height: int | None
    unverified_image: str | None  # what is wrong with it


class EventTask(TypedDict):
    id: str
    status: Status
    model: str
    user: str | None
    metadata: Mapping[str, str]
    prompt: str
    seed: int | None
    cost: float | None
    failure: EventFailure | None
    image: EventImage | None
    created_at: str
    submitted_at: str | None
    ended_at: str | None


class EventData(TypedDict):
    task: NotRequired[EventTask]  # not in a test


class EventPayload(TypedDict):
    """The form of an event with the whole task."""

    type: str
    timestamp: str
    data: EventData


class BudgetPayload(TypedDict):
    """The form of an event about a budget."""

    type: str
    timestamp: str
    data: BudgetFacts


Payload: TypeAlias = ProviderPayload | EventPayload | BudgetPayload


def provider_form(task: Task, status: Status, now: datetime) -> ProviderPayload:
    """Return the payload of the provider's webhook guide: `id`, `status`, `result` or `error`, `timestamp`.

    `id` is the id of the task, not the provider's. `result.sample` stays None until `with_link`.
    """
    timestamp = _timestamp(now)
    match status:
        case Status.STORED:
            result: ProviderResult = {"sample": None, "prompt": task.request.prompt, "seed": task.effective_seed}
            return {"id": task.id, "status": "Ready", "result": result, "timestamp": timestamp}
        case Status.FAILED:
            code = PROVIDER_CODES[task.failure or Failure.PROVIDER_ERROR]
            message = _MODERATED.get(task.failure or Failure.PROVIDER_ERROR) or task.failure_detail or code
            return _error(task, code, message, timestamp)
        case Status.CANCELLED:
            return _error(task, "cancelled", "the task was cancelled", timestamp)
        case _:
            return {"id": task.id, "status": "Pending", "timestamp": timestamp}


def event_form(task: Task, result: Result | None, status: Status, now: datetime) -> EventPayload:
    """Return the payload that Standard Webhooks recommends: `type`, `timestamp` and `data`, with the whole task."""
    return {"type": f"task.{status}", "timestamp": _timestamp(now), "data": {"task": _task(task, result, status)}}


def test_form(form: str, delivery_id: str, now: datetime) -> Payload:
    """Return the payload of a test delivery."""
    if form == "event":
        return {"type": TEST, "timestamp": _timestamp(now), "data": {}}
    return {"id": delivery_id, "status": "Pending", "timestamp": _timestamp(now)}


def budget_form(form: str, delivery_id: str, warning: BudgetWarning, now: datetime) -> Payload:
    """Return the payload of a warning about a budget.

    The provider's form has none: a handler of it finds a task that it does not know and that is pending, as in a test.
    """
    facts: BudgetFacts = {
        "budget": warning.budget.as_json(),
        "spent": warning.spent,
        "remaining": warning.remaining,
        "resets_at": _timestamp(warning.resets_at),
    }
    timestamp = _timestamp(now)
    if form == "event":
        return {"type": BUDGET_WARNING, "timestamp": timestamp, "data": facts}
    pending: ProviderPayload = {"id": delivery_id, "status": "Pending", "timestamp": timestamp}
    return {**pending, "type": BUDGET_WARNING, "data": facts}


def with_prompt(payload: Mapping[str, object], prompt: str | None) -> Mapping[str, object]:
    """Return the payload with this prompt, if it has a member for one. None: for the payload that is stored."""
    match payload:
        case {"result": {**result}}:
            return {**payload, "result": {**result, "prompt": prompt}}
        case {"data": {"task": {**task}}}:
            return {**payload, "data": {"task": {**task, "prompt": prompt}}}
        case _:
            return payload


def with_link(payload: Mapping[str, object], link: str | None) -> Mapping[str, object]:
    """Return the payload to send, from the stored one: if it describes an image, with the link to it."""
    match payload:
        case {"result": {**result}}:
            return {**payload, "result": {**result, "sample": link}}
        case {"data": {"task": {"image": {**image}} as task}}:
            return {**payload, "data": {"task": {**task, "image": {**image, "url": link}}}}
        case _:
            return payload


def _error(task: Task, code: str, message: str, timestamp: str) -> ProviderPayload:
    return {"id": task.id, "status": "Error", "error": code, "message": message, "timestamp": timestamp}


def _task(task: Task, result: Result | None, status: Status) -> EventTask:
    ended_at = (task.stored_at or task.failed_at or task.cancelled_at) if status.final else None
    return {
        "id": task.id,
        "status": status,
        "model": task.model,
        "user": task.user,
        "metadata": dict(task.metadata or {}),
        "prompt": task.request.prompt,
        "seed": task.effective_seed,
        "cost": task.cost,
        "failure": _failure(task),
        "image": None if result is None else _image(result),
        "created_at": _timestamp(task.created_at),
        "submitted_at": None if task.submitted_at is None else _timestamp(task.submitted_at),
        "ended_at": None if ended_at is None else _timestamp(ended_at),
    }


def _failure(task: Task) -> EventFailure | None:
    if task.failure is None:
        return None
    return {"code": task.failure, "detail": task.failure_detail, "money_spent": task.money_spent}


def _image(result: Result) -> EventImage:
    return {
        "url": None,
        "sha256": result.sha256,
        "media_type": result.media_type,
        "bytes": result.bytes,
        "width": result.width,
        "height": result.height,
        "unverified_image": result.unverified_image,
    }


def _timestamp(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
