"""The feed as server-sent events: events, a heartbeat in their absence, and `reconnect` at the end of the stream."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from datetime import datetime, timedelta
from functools import lru_cache
from http import HTTPStatus

from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from starlette.types import Send

from app import ids
from app.db.tables.events import Event, Position
from app.errors import Unavailable
from app.rules.task import Status
from app.web.feed import Ended, EventFilter, Feed
from app.web.schemas.events import event_view

_MAX_STREAM_S = 3600.0  # then the client connects again, and its key is checked again
_RETRY, _RETRY_SPREAD = timedelta(seconds=2), timedelta(seconds=3)  # spreads the reconnections
_FINAL = frozenset(f"task.{status}" for status in Status if status.final)


class EventStream(StreamingResponse):
    """A stream that closes its generator at its end, also when the client disconnects.

    FastAPI's own response class is for routes that only stream. These routes can also answer with a page, with an
    error, or with 204.
    """

    media_type = "text/event-stream"

    def __init__(self, frames: AsyncGenerator[bytes], status_code: int = HTTPStatus.OK) -> None:
        # The second header turns off the buffering of nginx.
        super().__init__(frames, status_code, {"cache-control": "no-store", "x-accel-buffering": "no"})
        self._frames = frames

    async def stream_response(self, send: Send) -> None:
        async with aclosing(self._frames):
            await super().stream_response(send)


def stream(feed: Feed, after: Position | None, event_filter: EventFilter, *, until_final: bool = False) -> EventStream:
    """Stream the matching events after `after`, or from now on if it is None.

    `until_final`: the stream ends with the event of a final state.
    """
    return EventStream(_frames(feed, after, event_filter, until_final=until_final))


async def _frames(
    feed: Feed, after: Position | None, event_filter: EventFilter, *, until_final: bool
) -> AsyncGenerator[bytes]:
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + _MAX_STREAM_S
    with suppress(Ended, Unavailable):
        async with feed.listen(after, event_filter) as listener:
            yield _opening(listener.position)
            while loop.time() < ends_at:
                found = await listener.next(feed.heartbeat_s)
                yield b"".join(map(_frame, found)) or _heartbeat(listener.position, feed.lateness.since)
                if until_final and found and found[-1].kind in _FINAL:
                    return
    yield _RECONNECT


def _opening(position: Position) -> bytes:
    retry = _RETRY + ids.jitter(_RETRY_SPREAD)
    return format_sse_event(id=str(position), retry=retry // timedelta(milliseconds=1), comment="the feed")


def _heartbeat(position: Position, late_since: datetime | None) -> bytes:
    """A comment with the current id: it advances the client's Last-Event-ID, so that the id does not expire."""
    late = late_since and f"late: events since {late_since.isoformat()} are not visible yet"
    return format_sse_event(id=str(position), comment=late or "nothing new")


_RECONNECT = format_sse_event(event="reconnect", data_str='{"detail": "connect again with your Last-Event-ID"}')


@lru_cache(maxsize=1024)
def _frame(event: Event) -> bytes:
    """The frame of an event, built once for all listeners."""
    return format_sse_event(
        id=str(event.position), event=event.kind, data_str=json.dumps(event_view(event).model_dump(mode="json"))
    )
