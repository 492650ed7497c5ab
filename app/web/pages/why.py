"""Everything that the page of one task shows, read in one transaction by the functions of the API."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import NamedTuple

from app import jobs
from app.db import Connection
from app.db.tables import applications, attempts, tasks
from app.db.tables.attempts import Attempt
from app.resources import Policy, Resources
from app.rules.json_value import JsonObject
from app.rules.retention import DataClass
from app.rules.task import RESUBMITTABLE, Status
from app.web.pages.access import Visitor
from app.web.pages.drawing import Row, draw
from app.web.pages.next_steps import Facts, Next, next_steps, removals
from app.web.schemas.tasks import TaskView
from app.web.schemas.timeline import DeliveryEntry
from app.web.task_response import read_task_view, read_timeline

_POLLED = frozenset({Status.SUBMITTING, Status.SUBMITTED, Status.READY})


class Actions(NamedTuple):
    """Which buttons the page has."""

    ask: bool
    cancel: bool
    resubmit: bool
    erase: bool


@dataclass(frozen=True, slots=True)
class Why:
    task: TaskView
    key_id: str
    application_id: str
    account_id: str
    provider_id: str | None
    attempts: int
    rows: list[Row]
    steps: list[Next]
    actions: Actions
    parameters: JsonObject  # those of the model that have a value, without prompt and images
    took: timedelta | None  # from creation to the final state


def read_why(connection: Connection, use: Resources, visitor: Visitor, task_id: str) -> Why | None:
    """Return what the page shows, or None if there is no such task for this visitor."""
    owner = visitor.application_id
    task, view = tasks.get_owned(connection, task_id, owner), read_task_view(connection, task_id, owner)
    timeline = read_timeline(connection, task_id, owner)
    if task is None or view is None or timeline is None:
        return None
    now = use.now()
    sent = [attempt for attempt in attempts.of_task(connection, task_id) if attempt.sent_at is not None]
    facts = Facts(
        jobs=jobs.planned(connection, task_id),
        deliveries=[entry for entry in timeline.entries if isinstance(entry, DeliveryEntry)],
        removals=removals(view, _keeps(connection, use, task.application_id)),
        link_expires_at=task.sample_expires_at,
        provider_is_configured=use.accounts.can_submit,
    )
    return Why(
        task=view,
        key_id=task.key_id,
        application_id=task.application_id,
        account_id=task.account_id,
        provider_id=_provider_id(sent),
        attempts=len(sent),
        rows=draw(timeline, now),
        steps=next_steps(view, facts, now),
        actions=actions_for(view.status),
        parameters=view.params.model_dump(mode="json", exclude={"prompt", "images"}, exclude_none=True),
        took=_took(view),
    )


def actions_for(status: Status) -> Actions:
    return Actions(
        ask=status in _POLLED,
        cancel=not status.final and status is not Status.READY,
        resubmit=status in RESUBMITTABLE,
        erase=status.final,
    )


def _keeps(connection: Connection, use: Policy, application_id: str) -> Callable[[DataClass], timedelta | None]:
    application = applications.get(connection, application_id)
    own = None if application is None else application.retention_days
    return partial(use.retention.of, own=own)


def _provider_id(sent: list[Attempt]) -> str | None:
    return next((attempt.provider_id for attempt in reversed(sent) if attempt.provider_id), None)


def _took(task: TaskView) -> timedelta | None:
    ended_at = task.stored_at or task.failed_at or task.cancelled_at
    return None if ended_at is None else ended_at - task.created_at
