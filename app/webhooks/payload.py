"""Payloads of webhooks in two forms: as the provider's callback, or as an event with the whole task. Pure.

A payload is stored when the event happens, so that every attempt sends the same content. Only the link to the image is
added when it is sent, because links expire.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from app.db.tables.deliveries import TEST
from app.db.tables.results import Result
from app.db.tables.tasks import Task
from app.rules.task import Failure, Status

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


def provider_form(task: Task, status: Status, now: datetime) -> dict[str, Any]:
    """Return the payload of the provider's webhook guide: `id`, `status`, `result` or `error`, `timestamp`.

    `id` is the id of the task, not the provider's. `result.sample` stays None until `with_link`.
    """
    head, tail = {"id": task.id}, {"timestamp": _timestamp(now)}
    match status:
        case Status.STORED:
            result = {"sample": None, "prompt": task.request.prompt, "seed": _seed(task)}
            return {**head, "status": "Ready", "result": result, **tail}
        case Status.FAILED:
            code = PROVIDER_CODES[task.failure or Failure.PROVIDER_ERROR]
            message = _MODERATED.get(task.failure or Failure.PROVIDER_ERROR) or task.failure_detail or code
            return {**head, "status": "Error", "error": code, "message": message, **tail}
        case Status.CANCELLED:
            return {**head, "status": "Error", "error": "cancelled", "message": "the task was cancelled", **tail}
        case _:
            return {**head, "status": "Pending", **tail}


def event_form(task: Task, result: Result | None, status: Status, now: datetime) -> dict[str, Any]:
    """Return the payload that Standard Webhooks recommends: `type`, `timestamp` and `data`, with the whole task."""
    return {"type": f"task.{status}", "timestamp": _timestamp(now), "data": {"task": _task(task, result, status)}}


def test_form(form: str, delivery_id: str, now: datetime) -> dict[str, Any]:
    """Return the payload of a test delivery."""
    if form == "event":
        return {"type": TEST, "timestamp": _timestamp(now), "data": {}}
    return {"id": delivery_id, "status": "Pending", "timestamp": _timestamp(now)}


def with_link(payload: Mapping[str, Any], link: str | None) -> dict[str, Any]:
    """Return the payload to send: if it describes an image, with the link to it."""
    if isinstance(payload.get("result"), Mapping):
        return {**payload, "result": {**payload["result"], "sample": link}}
    task = payload.get("data", {}).get("task", {})
    if task.get("image") is None:
        return dict(payload)
    return {**payload, "data": {"task": {**task, "image": {**task["image"], "url": link}}}}


def _task(task: Task, result: Result | None, status: Status) -> dict[str, Any]:
    ended_at = (task.stored_at or task.failed_at or task.cancelled_at) if status.final else None
    return {
        "id": task.id,
        "status": status,
        "model": task.model,
        "prompt": task.request.prompt,
        "seed": _seed(task),
        "cost": task.cost,
        "failure": _failure(task),
        "image": None if result is None else _image(result),
        "created_at": _timestamp(task.created_at),
        "submitted_at": task.submitted_at and _timestamp(task.submitted_at),
        "ended_at": ended_at and _timestamp(ended_at),
    }


def _seed(task: Task) -> int | None:
    """Return the seed of the image, else the requested seed."""
    return task.request.seed if task.seed is None else task.seed


def _failure(task: Task) -> dict[str, Any] | None:
    if task.failure is None:
        return None
    return {"code": task.failure, "detail": task.failure_detail, "money_spent": task.money_spent}


def _image(result: Result) -> dict[str, Any]:
    names = ("sha256", "media_type", "bytes", "width", "height")
    return {"url": None, **{name: getattr(result, name) for name in names}}


def _timestamp(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
