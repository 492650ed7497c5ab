"""The event feed: in pages, or as a stream of server-sent events."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import JSONResponse

from app import ids
from app.db import Connection
from app.db.engine.feed_order import Position
from app.db.tables import events, tasks
from app.db.tables.events import Event, Page
from app.errors import EventsGone, InvalidRequest, NotFound, Unauthorized
from app.resources import Resources
from app.security.keyring import KeyRing
from app.web import feed_cursors
from app.web.auth import FeedDep, ReaderDep, ResourcesDep
from app.web.feed import REVOKED, Feed
from app.web.known_query import KnownQuery
from app.web.lateness import late_since
from app.web.listener import Ended, EventFilter, Revoked
from app.web.path_ids import TaskId
from app.web.problems import responses
from app.web.schemas.events import TASK_KINDS, EventPage, Kind, event_view
from app.web.streaming import EventStream, stream
from app.web.task_response import preference_applied, wait_seconds

router = APIRouter(prefix="/v1", tags=["events"])

After = Annotated[
    str | None,
    Query(
        description="Starting position: the id of an event, a `next_cursor`, `start` for the oldest stored event, or "
        "`now`. Default: `start` for a page and for the stream of one task, `now` for the stream of all tasks.",
        max_length=40,
    ),
]
WaitForMore = Annotated[
    str | None,
    Header(description="`wait=N`: if no event is available, wait up to N seconds (at most 60) for the next one."),
]
LastEventId = Annotated[
    str | None,
    Header(description="The id of the last event of a broken stream; takes precedence over `after`.", max_length=40),
]

_STREAM: dict[str, Any] = {
    "text/event-stream": {
        "schema": {
            "description": "One event.",
            "type": "object",
            "properties": {
                "id": {"type": "string", "description": "Pass it as `Last-Event-ID` or `after` to resume."},
                "event": {"type": "string", "description": "The kind, or `reconnect` at the end of the stream."},
                "data": {"type": "string", "contentMediaType": "application/json", "description": "An EventView."},
            },
        },
    }
}
_LATE = {
    "Events-Late-Since": {
        "description": "Present if events of the caller are late: when the oldest was written that is not visible yet.",
        "schema": {"type": "string", "format": "date-time"},
    }
}
_REFUSALS = (
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.GONE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.SERVICE_UNAVAILABLE,
)


@router.get(
    "/events",
    response_model=EventPage,
    dependencies=[KnownQuery],
    responses={HTTPStatus.OK: {"content": _STREAM, "headers": _LATE}, **responses(*_REFUSALS)},
)
async def get_events(
    use: ResourcesDep,
    feed: FeedDep,
    caller: ReaderDep,
    after: After = None,
    task_id: Annotated[str | None, Query(pattern=ids.pattern("task"), description="Only events of this task.")] = None,
    kind: Annotated[list[Kind] | None, Query(description="Only events of these kinds.")] = None,
    limit: Annotated[int, Query(ge=1, le=200, description="Maximum number of events in the page.")] = 100,
    accept: Annotated[str, Header(include_in_schema=False)] = "",
    prefer: WaitForMore = None,
    last_event_id: LastEventId = None,
) -> Response:
    """Get the events of all tasks, oldest first: a page or, with `Accept: text/event-stream`, an endless stream.

    With `Prefer: wait=N`, a request for a page waits for the next event if none is available.
    """
    event_filter = EventFilter(task_id, frozenset(kind or ()), caller.owner)
    if "text/event-stream" in accept.lower():
        return await stream(
            use, caller.key_id, feed, await _position(use, last_event_id or after or "now"), event_filter
        )
    position = await _position(use, after or "start")
    page = await use.db.read(_page, position, event_filter, limit)
    if page.events or not wait_seconds(prefer):
        return _answer(use.keys, page.events, page.end, prefer, late_since(page.pending, use.now()))
    found, end = await _wait(feed, page.end, event_filter, caller.key_id, wait_seconds(prefer))
    return _answer(use.keys, found[:limit], end, prefer, await feed.lateness.since_of(caller.owner))


@router.get(
    "/tasks/{task_id}/events",
    response_class=EventStream,
    responses={
        HTTPStatus.OK: {"content": _STREAM},
        HTTPStatus.NO_CONTENT: {"description": "The task is final and has no further events. Do not reconnect."},
        **responses(HTTPStatus.NOT_FOUND, *_REFUSALS),
    },
)
async def get_task_events(
    use: ResourcesDep,
    feed: FeedDep,
    caller: ReaderDep,
    task_id: TaskId,
    after: After = None,
    last_event_id: LastEventId = None,
) -> Response:
    """Stream the events of one task. The stream ends with the event of the task's final state."""
    position = await _position(use, last_event_id or after or "start")
    if await use.db.read(_is_over, task_id, position, caller.owner):
        return Response(status_code=HTTPStatus.NO_CONTENT)
    return await stream(
        use, caller.key_id, feed, position, EventFilter(task_id, TASK_KINDS, caller.owner), until_final=True
    )


async def _position(use: Resources, text: str) -> Position | None:
    """Return the starting position; None means now. Raises InvalidRequest or EventsGone."""
    if text == "now":
        return None
    if text == "start":
        return await use.db.read(events.beginning)
    if not feed_cursors.is_cursor(text):
        raise InvalidRequest("after: is not a position in the feed", {"after": "is not a position in the feed"})
    position = feed_cursors.position_of(use.keys, text)
    if position is None or not await use.db.read(events.is_kept, position):
        raise EventsGone("the events after this position are no longer stored; continue with after=start")
    return position


def _page(connection: Connection, position: Position | None, event_filter: EventFilter, limit: int) -> Page:
    after = events.head(connection) if position is None else position
    task_id, kinds, owner = event_filter.task_id, event_filter.kinds, event_filter.owner
    return events.following(connection, after, limit, task_id=task_id, kinds=kinds, owner=owner)


async def _wait(
    feed: Feed, after: Position, event_filter: EventFilter, key_id: str, seconds: float
) -> tuple[Sequence[Event], Position]:
    """Return the next events, and the position after them; no events if the time passes or the service stops."""
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + seconds
    async with feed.listen(after, event_filter, key_id=key_id) as listener:
        try:
            while (left := ends_at - loop.time()) > 0:
                if found := await listener.next(left):
                    return found, listener.position
        except Revoked as error:
            raise Unauthorized(REVOKED) from error
        except Ended:
            pass
        return [], listener.position


def _answer(
    ring: KeyRing, found: Sequence[Event], end: Position, prefer: str | None, late: datetime | None
) -> Response:
    """Return a page, whose cursor is the id of its last event; `end`: the position of one without events."""
    views = [event_view(ring, event) for event in found]
    page = EventPage(events=views, next_cursor=views[-1].id if views else feed_cursors.cursor(ring, end))
    headers = preference_applied(prefer) | ({} if late is None else {"events-late-since": late.isoformat()})
    return JSONResponse(page.model_dump(mode="json"), headers=headers)


def _is_over(connection: Connection, task_id: str, position: Position | None, owner: str | None) -> bool:
    """Return whether the task has no events after the position and gets no more. Raises NotFound.

    The events of a task that ended long ago are no longer stored.
    """
    task = tasks.get_owned(connection, task_id, owner)
    if task is None:
        raise NotFound("there is no such task")
    last = events.last_of_task(connection, task_id)
    no_more = last is None or position is None or last.position <= position
    return task.status.final and no_more
