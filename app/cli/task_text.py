"""A task in words: what it is, what happened to it, and what happens next."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from app.cli.answers import Entry, Image, Next, TaskAnswer, TimelineAnswer
from app.cli.output import one_line
from app.cli.table_printer import age

_KB, _MB = 1000, 1_000_000
_FINAL = frozenset({"stored", "failed", "cancelled"})
_VERDICTS: Mapping[str, str] = {
    "signed": "its signature is right",
    "shared_secret": "its shared secret is right",
    "unproven": "it has no proof",
    "forged": "its proof is wrong, see `fluxhook verify-callback`",
}
_EFFECTS: Mapping[str, str] = {
    "moved": "it moved the task",
    "adopted": "it added the provider's id, the cost or a fresh link",
    "confirmed": "it was known already",
    "held": "no usable answer, so the task waits for better evidence",
    "hinted": "the provider is polled",
    "contradicted": "it contradicts what is known, so the provider is polled",
    "late": "the task had ended",
    "superseded": "it is about an earlier attempt",
    "rejected": "it was rejected",
}
_STATES: Mapping[str, str] = {
    "queued": "recorded, and waits for a slot",
    "submitting": "the request is sent to the provider",
    "submitted": "the provider has it",
    "ready": "the image is ready at the provider",
    "stored": "the image is stored",
    "failed": "failed",
    "cancelled": "cancelled",
}
_DOWNLOADS: Mapping[str, str] = {
    "stored": "downloaded and stored",
    "kept_aside": "downloaded into the spool until the store is available",
    "failed": "the download failed",
}
_STEPS: Mapping[str, str] = {
    "dispatch": "the task is sent to the provider",
    "reconcile": "the provider is polled, unless a callback comes first",
    "collect": "the image is downloaded",
    "erase": "the images of the erased task are removed",
}
_SPENT: Mapping[str, str] = {
    "no": "nothing was spent",
    "yes": "it was charged",
    "maybe": "it may have been charged",
}


def facts(task: TaskAnswer, now: datetime) -> Iterator[tuple[str, str]]:
    """Yield what a task is, as labels and texts of one line."""
    yield "state", task.status if task.failure is None else f"{task.status}: {task.failure.code}"
    if task.failure is not None:
        yield "reason", one_line(task.failure.detail or "none was given")
    yield "model", f"{task.model} at {task.provider}, watched by {task.watched_by}"
    yield "prompt", one_line(str(task.params.get("prompt", ""))) or "none"
    for name, value in task.params.items():
        if name not in {"prompt", "images"} and value is not None:
            yield name, one_line(str(value))
    yield from _inputs(task)
    yield "created", f"{_instant(task.created_at)}, {age(now - task.created_at)} ago"
    if task.deadline_at is not None:
        yield "deadline", _instant(task.deadline_at)
    yield "cost", _cost(task)
    if task.image is not None:
        yield from _image(task.image, task.seed)
    if task.webhook is not None:
        yield "webhook", f"{one_line(task.webhook.url)}, {task.webhook.form} form"
    for warning in task.warnings:
        yield "warning", one_line(warning)
    if task.unwanted:
        yield "unwanted", "it was cancelled too late, so its result is kept"


def happened(entries: Sequence[Entry]) -> Iterator[tuple[datetime, str]]:
    """Yield when something happened to a task, and what, as texts of one line."""
    for entry in entries:
        match entry.event:
            case "phase":
                yield entry.at, _STATES.get(entry.status or "", entry.status or "")
            case "submission":
                yield entry.at, _submission(entry)
            case "evidence":
                yield entry.at, _evidence(entry)
            case "download":
                detail = f": {one_line(entry.detail)}" if entry.detail else ""
                took = _took(entry.at, entry.ended_at)
                yield entry.at, f"{_DOWNLOADS.get(entry.outcome or '', entry.outcome)}{took}{detail}"
            case "delivery":
                yield entry.at, _delivery(entry)


def following(task: TaskAnswer, timeline: TimelineAnswer, now: datetime) -> Iterator[str]:
    """Yield what happens next, and what can be done, as sentences without a full stop."""
    if task.queue is not None:
        yield f"it waits for a slot: number {task.queue.position} in the queue"
        if task.queue.paused_until_at is not None:
            reason = one_line(task.queue.pause_reason or "no reason given")
            yield f"the provider's account is paused for {_until(task.queue.paused_until_at, now)}: {reason}"
    for step in timeline.next:
        yield _step(step, now)
    for entry in timeline.entries:
        if entry.event == "delivery" and entry.due_at is not None:
            yield _waiting_delivery(entry, now)
    if task.status == "failed" and task.inputs_removed_at is not None and task.params.get("images"):
        yield "nothing: without its input images it cannot be resubmitted"
    elif task.status == "failed" and task.failure is not None:
        spent = _SPENT.get(task.failure.money_spent, task.failure.money_spent)
        yield f"nothing by itself; `fluxhook resubmit {task.id}` makes a new attempt (the last one: {spent})"
    elif task.status in _FINAL and not timeline.next:
        yield "nothing: the task is final"
    elif not timeline.next and task.queue is None:
        yield "no work is planned; the sweep of the service repairs that within minutes"


def _parameters(task: TaskAnswer) -> Iterator[tuple[str, str]]:
    values = {"user": task.user, **task.params}
    for name, value in values.items():
        if name not in {"prompt", "images"} and value is not None:
            yield name, one_line(str(value))
    for name, text in task.metadata.items():
        yield "metadata", f"{one_line(name)}: {one_line(text)}"
    for image in task.params.get("images", []):
        size = f"{image['width']} x {image['height']}"
        yield str(image["field"]), f"{size}, {image['media_type']}, {_size(image['bytes'])}"


def _inputs(task: TaskAnswer) -> Iterator[tuple[str, str]]:
    for image in task.params.get("images", []):
        yield (
            str(image["field"]),
            f"{image['width']} x {image['height']}, {image['media_type']}, {_size(image['bytes'])}",
        )
    if task.inputs_removed_at is not None:
        yield "inputs", f"removed {_instant(task.inputs_removed_at)}, because their retention has ended"


def _image(image: Image, seed: int | None) -> Iterator[tuple[str, str]]:
    size = f"{image.width} x {image.height}, " if image.width is not None else ""
    made_with = "" if seed is None else f", seed {seed}"
    yield "image", f"{size}{image.media_type}, {_size(image.bytes)}{made_with}"
    if image.unverified_image is not None:
        yield "not verified", one_line(image.unverified_image)
    if image.removed_at is not None:
        yield "removed", f"{_instant(image.removed_at)}, because the retention of the image has ended"


def _submission(entry: Entry) -> str:
    attempt = f"attempt {entry.number} at {entry.provider}"
    took = _took(entry.at, entry.answered_at)
    match entry.outcome:
        case "accepted":
            cost = "" if entry.cost is None else f", cost {entry.cost:g}"
            return f"{attempt}: accepted as {one_line(str(entry.provider_id))}{cost}{took}"
        case "refused":
            return f"{attempt}: refused{took}: {one_line(entry.detail or 'no reason given')}"
        case "unknown" | "pending":
            return f"{attempt}: no answer yet"
    detail = f": {one_line(entry.detail)}" if entry.detail else ""
    return f"{attempt}: {entry.outcome}{took}{detail}"


def _evidence(entry: Entry) -> str:
    effect = _EFFECTS.get(entry.effect or "", entry.effect or "")
    copies = f"; received {entry.copies} times" if entry.copies > 1 else ""
    detail = f" ({one_line(entry.detail)})" if entry.detail else ""
    if entry.witness == "callback":
        verdict = _VERDICTS.get(entry.verdict or "", entry.verdict or "")
        return f"callback said {entry.said}{detail}: {verdict}, {effect}{copies}"
    what = "answer" if entry.witness == "submit" else "poll"
    repaired = "; the callback never came" if entry.repaired else ""
    status = "" if entry.http_status in {None, 200} else f", HTTP {entry.http_status}"
    return f"{what} said {entry.said}{status}{detail}: {effect}{copies}{repaired}"


def _delivery(entry: Entry) -> str:
    attempts = "1 attempt" if entry.attempts == 1 else f"{entry.attempts} attempts"
    detail = f": {one_line(entry.detail)}" if entry.detail else ""
    return f"webhook {entry.delivery_id} about {entry.about}: {entry.state} after {attempts}{detail}"


def _waiting_delivery(entry: Entry, now: datetime) -> str:
    if entry.endpoint_state != "active":
        return f"the webhook about {entry.about} is not sent: its endpoint is {entry.endpoint_state}"
    due = entry.due_at or now
    return f"{_when(due, now)} the webhook about {entry.about} is sent"


def _step(step: Next, now: datetime) -> str:
    what = _STEPS.get(step.step, step.step)
    if step.state == "held":
        return f"not by itself: {what}; it failed {step.failures} times, see `fluxhook jobs`"
    failures = f" (failed {step.failures} times)" if step.failures else ""
    return f"{'now' if step.state == 'running' else _when(step.at, now)} {what}{failures}"


def _when(at: datetime, now: datetime) -> str:
    return "now" if at <= now else f"in {_until(at, now)}"


def _until(at: datetime, now: datetime) -> str:
    return age(at - now)


def _took(begin: datetime, end: datetime | None) -> str:
    return "" if end is None else f" after {(end - begin).total_seconds():.2f} s"


def _cost(task: TaskAnswer) -> str:
    spent = "" if task.failure is None else f"; {_SPENT.get(task.failure.money_spent, task.failure.money_spent)}"
    if task.cost is None:
        return f"not known{spent}"
    return f"{task.cost:g} credits (USD {task.cost / 100:.2f}){spent}"


def _instant(at: datetime) -> str:
    return at.isoformat(timespec="seconds").replace("+00:00", "Z")


def _size(count: int) -> str:
    return f"{count / _MB:.1f} MB" if count >= _MB else f"{max(1, count // _KB)} kB"
