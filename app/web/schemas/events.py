"""Response models of the event feed, built from stored events."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, Field

from app.db.tables.events import Event
from app.rules.task import Failure, Status


class Kind(StrEnum):
    """The new state of a task. `queued` recurs after a temporary refusal and when a new attempt is requested."""

    QUEUED = "task.queued"
    SUBMITTING = "task.submitting"
    SUBMITTED = "task.submitted"
    READY = "task.ready"
    STORED = "task.stored"
    FAILED = "task.failed"
    CANCELLED = "task.cancelled"


class EventData(BaseModel):
    status: Status
    failure: Annotated[Failure | None, Field(description="The failure code of a failed task.")]


class EventView(BaseModel):
    """A state change of a task."""

    id: Annotated[
        str,
        Field(description="Position in the feed. Pass it as `after` or `Last-Event-ID` to continue after this event."),
    ]
    kind: Kind
    task_id: str
    at: datetime
    data: EventData


class EventPage(BaseModel):
    """A page of the feed, oldest event first."""

    events: list[EventView]
    next_cursor: Annotated[str, Field(description="Pass it as `after` to get the next page. Always present.")]


def event_view(event: Event) -> EventView:
    return EventView.model_validate(
        {
            "id": str(event.position),
            "kind": event.kind,
            "task_id": event.task_id,
            "at": event.at,
            "data": event.data,
        }
    )
