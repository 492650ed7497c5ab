"""The feed for applications: pulled page by page, or streamed as server-sent events."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import JSONResponse

from app.db import Connection
from app.db.tables import events, tasks
from app.db.tables.events import Event, Page, Position
from app.errors import EventsGone, InvalidRequest, NotFound
from app.resources import Resources
from app.web.auth import CallerDep, FeedDep, ResourcesDep
from app.web.feed import Ended, Feed, Wanted
from app.web.problems import responses
from app.web.schemas.events import EventPage, Kind, event_view
from app.web.streaming import EventStream, stream
from app.web.task_response import TaskId, applied, seconds

router = APIRouter(prefix="/v1", tags=["events"])

After = Annotated[
    str | None,
    Query(
        description="Where to begin: the id of an event, a `next_cursor`, `start` for all that is kept, or `now`. "
        "Without it a page begins at the start, a stream of all tasks now, a stream of one task at its start.",
        max_length=40,
    ),
]
WaitForMore = Annotated[
    str | None, Header(description="`wait=N`: an empty page waits for what comes next, N seconds (60 at most).")
]
LastEventId = Annotated[
    str | None, Header(description="The id that a stream came to; it counts more than `after`.", max_length=40)
]

_STREAM: dict[str, Any] = {
    "text/event-stream": {
        "schema": {
            "description": "Of each event.",
            "type": "object",
            "properties": {
                "id": {"type": "string", "description": "To go on after it: `Last-Event-ID`, or `after`."},
                "event": {"type": "string", "description": "Its kind, or `reconnect` before the stream ends."},
                "data": {"type": "string", "contentMediaType": "application/json", "description": "An EventView."},
            },
        },
    }
}
_REFUSALS = (
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.GONE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.SERVICE_UNAVAILABLE,
)


@router.get(
    "/events", response_model=EventPage, responses={HTTPStatus.OK: {"content": _STREAM}, **responses(*_REFUSALS)}
)
async def get_events(
    use: ResourcesDep,
    feed: FeedDep,
    _asking: CallerDep,
    after: After = None,
    task_id: Annotated[str | None, Query(pattern=r"^task_[0-9a-v]{37}$", description="Only of this task.")] = None,
    kind: Annotated[list[Kind] | None, Query(description="Only of this kind, or of these.")] = None,
    limit: Annotated[int, Query(ge=1, le=200, description="Of a page.")] = 100,
    accept: Annotated[str, Header(include_in_schema=False)] = "",
    prefer: WaitForMore = None,
    last_event_id: LastEventId = None,
) -> Response:
    """What became of tasks, the oldest first: a page, or with `Accept: text/event-stream` a stream without end.

    With `Prefer: wait=N` an empty page waits for what comes next.
    """
    wanted = Wanted(task_id, frozenset(kind or ()))
    if "text/event-stream" in accept.lower():
        place = await _place(use, last_event_id or after or "now")
        return stream(feed, place, wanted)
    place = await _place(use, after or "start")
    page = await use.db.read(lambda connection: _page(connection, place, wanted, limit))
    if page.events or not seconds(prefer):
        return _answer(page.events, page.end, prefer)
    found, end = await _wait(feed, page.end, wanted, seconds(prefer))
    return _answer(found[:limit], found[:limit][-1].position if found else end, prefer)


@router.get(
    "/tasks/{task_id}/events",
    response_class=EventStream,
    responses={
        HTTPStatus.OK: {"content": _STREAM},
        HTTPStatus.NO_CONTENT: {"description": "The task is final and nothing follows: do not ask again."},
        **responses(HTTPStatus.NOT_FOUND, *_REFUSALS),
    },
)
async def get_task_events(
    use: ResourcesDep,
    feed: FeedDep,
    _asking: CallerDep,
    task_id: TaskId,
    after: After = None,
    last_event_id: LastEventId = None,
) -> Response:
    """What becomes of one task, as a stream that ends when the task does."""
    place = await _place(use, last_event_id or after or "start")
    if await use.db.read(lambda connection: _is_over(connection, task_id, place)):
        return Response(status_code=HTTPStatus.NO_CONTENT)
    return stream(feed, place, Wanted(task_id), until_final=True)


async def _place(use: Resources, text: str) -> Position | None:
    """Where to begin; None is now. Raises InvalidRequest, or EventsGone."""
    if text == "now":
        return None
    if text == "start":
        return await use.db.read(events.beginning)
    place = Position.of(text)
    if place is None:
        raise InvalidRequest("after: is no place in the feed", {"after": "is no place in the feed"})
    kept, oldest = await use.db.read(
        lambda connection: (events.is_kept(connection, place), events.starts_at(connection))
    )
    if not kept:
        since = f"the feed starts at {oldest.isoformat()}" if oldest else "the feed is empty"
        raise EventsGone(f"what followed there is not kept any more: {since}; begin anew with after=start")
    return place


def _page(connection: Connection, place: Position | None, wanted: Wanted, limit: int) -> Page:
    after = events.head(connection) if place is None else place
    return events.following(connection, after, limit, task_id=wanted.task_id, kinds=wanted.kinds)


async def _wait(feed: Feed, after: Position, wanted: Wanted, wait: float) -> tuple[Sequence[Event], Position]:
    """The next events, or none when the time is over or the service stops; and where to go on."""
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + wait
    async with feed.listen(after, wanted) as listener:
        with suppress(Ended):
            while (left := ends_at - loop.time()) > 0:
                if found := await listener.next(left):
                    return found, listener.position
        return [], listener.position


def _answer(found: Sequence[Event], end: Position, prefer: str | None) -> Response:
    page = EventPage(events=[event_view(event) for event in found], next_cursor=str(end))
    return JSONResponse(page.model_dump(mode="json"), headers=applied(prefer))


def _is_over(connection: Connection, task_id: str, place: Position | None) -> bool:
    """Whether nothing will follow. Raises NotFound. Of a task that ended long ago no events are kept."""
    task = tasks.get(connection, task_id)
    if task is None:
        raise NotFound("there is no such task")
    last = events.last_of_task(connection, task_id)
    seen = last is None or place is None or last.position <= place
    return task.status.final and seen
