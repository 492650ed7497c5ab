"""Response models of the event feed, built from stored events."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, Field

from app.db.tables.events import BUDGET_WARNING, Event
from app.rules.task import Failure, Status
from app.security.keyring import KeyRing
from app.web import feed_cursors


class Kind(StrEnum):
    """The new state of a task, or a warning about the budget of the application.

    `queued` recurs after a temporary refusal and when a new attempt is requested.
    """

    QUEUED = "task.queued"
    SUBMITTING = "task.submitting"
    SUBMITTED = "task.submitted"
    READY = "task.ready"
    STORED = "task.stored"
    FAILED = "task.failed"
    CANCELLED = "task.cancelled"
    BUDGET_WARNING = BUDGET_WARNING


class EventData(BaseModel):
    status: Status
    failure: Annotated[Failure | None, Field(description="The failure code of a failed task.")]


TASK_KINDS = frozenset(kind.value for kind in Kind if kind is not Kind.BUDGET_WARNING)


class BudgetData(BaseModel):
    """The data of `budget.warning`: the application has reserved or spent 80 % of its budget, once in each period."""

    budget: Annotated[dict[str, Any], Field(description="`credits` and `period`, `day` or `month`.")]
    spent: Annotated[float, Field(description="In credits, with what open tasks may cost.")]
    remaining: float
    resets_at: datetime


class EventView(BaseModel):
    """A state change of a task, or a warning with the task whose posting caused it."""

    id: Annotated[
        str,
        Field(description="Position in the feed. Pass it as `after` or `Last-Event-ID` to continue after this event."),
    ]
    kind: Annotated[
        Kind | str, Field(union_mode="left_to_right", description="Later versions may add kinds: ignore unknown ones.")
    ]
    task_id: str
    at: datetime
    data: Annotated[
        EventData | BudgetData | dict[str, Any],
        Field(union_mode="left_to_right", description="Of an unknown kind: as it was written."),
    ]
    user: Annotated[str | None, Field(description="The end user of the task; null without one, or once it is erased.")]
    metadata: Annotated[dict[str, str], Field(description="The metadata of the task; empty once it is erased.")]


class EventPage(BaseModel):
    """A page of the feed, oldest event first."""

    events: list[EventView]
    next_cursor: Annotated[str, Field(description="Pass it as `after` to get the next page. Always present.")]


def event_view(ring: KeyRing, event: Event) -> EventView:
    return EventView.model_validate(
        {
            "id": feed_cursors.event_id(ring, event.position),
            "kind": event.kind,
            "task_id": event.task_id,
            "at": event.at,
            "data": event.data,
            "user": event.user,
            "metadata": event.metadata,
        }
    )
