"""What happens next to a task, and when: from its state, jobs, account, webhooks and retention. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.jobs import PlannedJob, Step
from app.rules.retention import DataClass
from app.rules.task import Status
from app.web.schemas.tasks import QueueView, TaskView
from app.web.schemas.timeline import DeliveryEntry


@dataclass(frozen=True, slots=True)
class Next:
    """A sentence. `at`: when it happens, shown after it; `is_due`: now, as soon as a worker is free."""

    text: str
    at: datetime | None = None
    is_due: bool = False
    tone: str = ""
    is_removal: bool = False  # by the retention: nothing that a person waits for


@dataclass(frozen=True, slots=True)
class Facts:
    """What decides about the next steps, beside the task itself."""

    jobs: Sequence[PlannedJob]
    deliveries: Sequence[DeliveryEntry]
    removals: Sequence[Next]
    link_expires_at: datetime | None  # of the provider's link to the result
    provider_is_configured: bool


def next_steps(task: TaskView, facts: Facts, now: datetime) -> list[Next]:
    """Return what happens next, the most important first. Never empty."""
    waiting = [delivery for delivery in facts.deliveries if delivery.due_at is not None]
    waiting.sort(key=lambda delivery: delivery.due_at or now)
    steps = [*_problems(facts), *_of_state(task, facts, now), *(_webhook(delivery, now) for delivery in waiting)]
    return [*(steps or [Next("Nothing: the task has ended.")]), *facts.removals]


def removals(task: TaskView, keeps: Callable[[DataClass], timedelta | None]) -> list[Next]:
    """Return what the retention removes of a task that has ended, in order. `keeps`: how long each class is kept."""
    ended_at = task.stored_at or task.failed_at or task.cancelled_at
    if not task.status.final or ended_at is None:
        return []
    removed = {
        DataClass.IMAGES: "The image is removed" if task.image and task.image.removed_at is None else None,
        DataClass.INPUTS: "The input images are removed" if task.params.images and not task.inputs_removed_at else None,
        DataClass.TASKS: "The whole task is removed",
    }
    found = []
    for data, text in removed.items():
        kept = keeps(data)
        if text is not None and kept is not None:
            found.append(Next(text, ended_at + kept, is_removal=True))
    return sorted(found, key=lambda step: step.at or ended_at)


def _webhook(delivery: DeliveryEntry, now: datetime) -> Next:
    if delivery.endpoint_state != "active":
        text = f"The webhook “{delivery.about}” is not sent, because its endpoint is {delivery.endpoint_state}"
        return Next(f"{text}: resume it under Deliveries.", tone="bad")
    again = f" again (attempt {delivery.attempts + 1})" if delivery.attempts else ""
    at = delivery.due_at or now
    return Next(f"The webhook “{delivery.about}” is sent{again}", at, is_due=at <= now)


def _problems(facts: Facts) -> list[Next]:
    steps = []
    if not facts.provider_is_configured:
        steps.append(Next("No provider key is configured: the operator has to set one.", tone="bad"))
    for job in facts.jobs:
        if job.state == "held":
            text = f"The job “{job.step}” failed {job.failures} times and waits for an operator"
            steps.append(Next(f"{text}: fluxhook jobs --requeue-all.", tone="bad"))
    return steps


def _of_state(task: TaskView, facts: Facts, now: datetime) -> list[Next]:
    match task.status:
        case Status.QUEUED:
            return _queued(task, facts, now)
        case Status.SUBMITTING | Status.SUBMITTED:
            text = (
                "The provider works on it. Its callback ends the wait; without one, the provider is polled"
                if task.watched_by == "callback"
                else "The provider works on it, and is polled"
            )
            if task.status is Status.SUBMITTING:
                text = "The request is on its way. If no answer arrives, the provider is asked"
            return [_when(text, facts, Step.RECONCILE, now)]
        case Status.READY:
            steps = [_when("The result is downloaded and stored", facts, Step.COLLECT, now)]
            if facts.link_expires_at is not None:
                steps.append(Next("The provider's link to it expires", facts.link_expires_at))
            return steps
    return []


def _queued(task: TaskView, facts: Facts, now: datetime) -> list[Next]:
    steps = []
    queue = task.queue
    if queue is None:
        steps.append(_when("It has a slot, and is sent to the provider", facts, Step.DISPATCH, now))
    elif queue.paused_until_at is not None and queue.paused_until_at > now:
        reason = queue.pause_reason or "the provider refused a request"
        steps.append(Next(f"The provider's account is paused ({reason}) until", queue.paused_until_at, tone="wait"))
        steps.append(Next(f"Then it is sent in its turn: {_place(queue)}."))
    else:
        steps.append(Next(f"It waits for a free slot: {_place(queue)}.", tone="wait"))
    if task.deadline_at is not None:
        steps.append(Next("If it is not sent by then, it fails without a charge", task.deadline_at))
    return steps


def _place(queue: QueueView) -> str:
    return f"position {queue.position} among the waiting tasks of its application"


def _when(text: str, facts: Facts, step: Step, now: datetime) -> Next:
    """Return a sentence with the time of the job that does it."""
    for job in facts.jobs:
        if job.step is step and job.state == "running":
            return Next(f"{text}: at this moment.")
        if job.step is step and job.state == "waiting":
            again = f" (attempt {job.failures + 1})" if job.failures else ""
            return Next(f"{text}{again}", job.run_at, is_due=job.run_at <= now)
    return Next(f"{text}.")
