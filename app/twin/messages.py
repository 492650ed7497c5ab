"""All messages of the provider: submit and poll answers, refusals, callback bodies. No I/O."""

import json
from datetime import datetime
from http import HTTPStatus
from typing import Any, Literal

from app.twin.rules import Rules
from app.twin.submit_request import Refusal
from app.twin.task import MODERATED, Outcome, Task

Dialect = Literal["bfl", "gptproto"]
Json = dict[str, Any]

GENERATING_FROM = 0.5  # the progress at which the newer statuses change from Reasoning to Generating


def submit_answer(task: Task, polling_url: str, rules: Rules) -> Json:
    """Return an `AsyncResponse`, or an `AsyncWebhookResponse` for a task with a webhook."""
    spent = {
        "cost": task.cost,
        "input_mp": task.input_megapixels,
        "output_mp": task.output_megapixels,
    }
    if task.webhook_url is None:
        return {"id": task.id, "polling_url": polling_url, **spent}
    answer = {"id": task.id, "status": "Pending", "webhook_url": task.webhook_url, **spent}
    return answer | {"polling_url": polling_url} if rules.polling_url_with_webhook else answer


def status_answer(task: Task, now: datetime, sample: str, rules: Rules, dialect: Dialect) -> tuple[int, Json]:
    """Return the HTTP status and the `ResultResponse`."""
    answer: Json = {"id": task.id, "status": "Pending", "result": None, "progress": None}
    answer |= {"details": None, "preview": None}
    outcome = task.outcome_at(now)
    if outcome is None:
        progress = task.progress_at(now)
        return 200, answer | {"status": _interim_status(progress, rules), "progress": progress}
    answer |= {"status": outcome.value, **_settled(task)}
    if outcome is Outcome.READY:
        result = {"sample": sample, "prompt": task.prompt, "seed": task.seed, **_times(task, dialect)}
        return 200, answer | {"result": result}
    if outcome in MODERATED:
        return rules.failed_http, answer | {"details": {"Moderation Reasons": [task.ending.reason]}}
    return rules.failed_http, answer | {"details": {"error": f"{task.ending.error}: {task.ending.reason}"}}


def not_found(task_id: str) -> Json:
    return {"id": task_id, "status": "Task not found", "result": None, "progress": None, "details": None}


def refusal_body(refusal: Refusal, rules: Rules, dialect: Dialect) -> tuple[int, Json]:
    """Return the HTTP status and body of a refusal in this dialect."""
    if dialect == "gptproto":
        return _gptproto_refusal(refusal)
    if rules.errors == "skills":
        body: Json = {"error": refusal.code, "message": refusal.message, "details": refusal.detail or {}}
        return (401 if refusal.code == "invalid_api_key" else refusal.status), body
    return refusal.status, {"detail": refusal.detail or refusal.message}


def _gptproto_refusal(refusal: Refusal) -> tuple[int, Json]:
    # An empty account gets 403 like an invalid token; only the message differs.
    status, message = {
        "invalid_api_key": (403, "Invalid token"),
        "insufficient_credits": (403, "Insufficient balance"),
        "content_policy_violation": (503, "The input may violate the content rules"),
    }.get(refusal.code, (refusal.status, refusal.message))
    return status, {"error": {"message": message, "type": str(status)}}


def outage(status: int, dialect: Dialect) -> str:
    """Return the body of a server error: HTML from a gateway, JSON from the application."""
    phrase = HTTPStatus(status).phrase
    if status == HTTPStatus.BAD_GATEWAY:
        return f"<html><head><title>502 {phrase}</title></head><body>cloudflare</body></html>"
    if dialect == "gptproto":
        return json.dumps({"error": {"message": phrase, "type": str(status)}})
    return json.dumps({"detail": phrase})


def final_callback(task: Task, sample: str, rules: Rules) -> bytes:
    """Return the callback of a finished task in the form that the rules name. `sample` is the link to the image."""
    body = _field_final(task, sample) if rules.payload == "field" else _documented_final(task, sample)
    return json.dumps(body).encode()


def interim_callback(task: Task) -> bytes:
    return json.dumps({"task_id": task.id, "status": "processing", "progress": 0.5, "result": None}).encode()


def forged_callback(task: Task, rules: Rules) -> bytes:
    """Return a plausible callback with a false link, or with the failure of the task."""
    return final_callback(
        task, f"{task.origin}/delivery/forged-{task.id}.png?se=2099-01-01T00:00:00Z&sig=Zm9yZ2Vk", rules
    )


def _documented_final(task: Task, sample: str) -> Json:
    head = {"id": task.id, "status": "Ready"}
    tail = {"timestamp": (task.ready_at or task.accepted_at).strftime("%Y-%m-%dT%H:%M:%SZ"), **_settled(task)}
    if task.ending.outcome is Outcome.READY:
        return head | {"result": {"sample": sample, "prompt": task.prompt, "seed": task.seed}} | tail
    outcome = task.ending.outcome
    message = outcome.value if outcome in MODERATED else task.ending.reason
    return head | {"status": "Error", "error": task.ending.error, "message": message} | tail


def _field_final(task: Task, sample: str) -> Json:
    if task.ending.outcome is Outcome.READY:
        result = {"sample": sample, "seed": task.seed, **_times(task, "bfl"), "pre_filtered": False}
        amounts = {"cost": task.charged, "input_mp": task.input_megapixels, "output_mp": task.output_megapixels}
        return {"task_id": task.id, "status": "SUCCESS", "progress": 100, "result": result, **amounts}
    status = task.ending.outcome.value if task.ending.outcome in MODERATED else "FAILED"
    return {"task_id": task.id, "status": status, "result": None, **_settled(task)}


def _settled(task: Task) -> Json:
    return {} if task.settled_cost is None else {"cost": task.settled_cost}


def _interim_status(progress: float, rules: Rules) -> str:
    if not rules.newer_statuses:
        return "Pending"
    return "Generating" if progress >= GENERATING_FROM else "Reasoning"


def _times(task: Task, dialect: Dialect) -> Json:
    """Return start, end and duration in (epoch) seconds. GPTProto's sample has the names in camelCase."""
    start, end = task.accepted_at.timestamp(), (task.ready_at or task.accepted_at).timestamp()
    names = ("startTime", "endTime") if dialect == "gptproto" else ("start_time", "end_time")
    return {names[0]: start, names[1]: end, "duration": round(end - start, 3)}
