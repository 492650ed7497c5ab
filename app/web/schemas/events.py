"""What the API shows of the feed: the shapes in `/openapi.json`, made from events."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, Field

from app.db.tables.events import Event
from app.rules.task import Failure, Status


class Kind(StrEnum):
    """What became of a task. It may go back to queued: refused for now, or asked for again."""

    QUEUED = "task.queued"
    SUBMITTING = "task.submitting"
    SUBMITTED = "task.submitted"
    READY = "task.ready"
    STORED = "task.stored"
    FAILED = "task.failed"
    CANCELLED = "task.cancelled"


class EventData(BaseModel):
    status: Status
    failure: Annotated[Failure | None, Field(description="Why it failed, if it did.")]


class EventView(BaseModel):
    """Something that became of a task."""

    id: Annotated[str, Field(description="Its place in the feed: `after` or `Last-Event-ID` goes on from here.")]
    kind: Kind
    task_id: str
    at: datetime
    data: EventData


class EventPage(BaseModel):
    """A part of the feed, the oldest first."""

    events: list[EventView]
    next_cursor: Annotated[str, Field(description="Give it as `after` for what follows. There is always one.")]


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
