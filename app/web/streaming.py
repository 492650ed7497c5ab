"""The feed as server-sent events: events, a heartbeat in their absence, and `reconnect` at the end of the stream."""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, aclosing, suppress
from datetime import datetime, timedelta
from functools import lru_cache
from http import HTTPStatus

from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from starlette.types import Receive, Scope, Send

from app import ids
from app.db.engine.feed_order import Position
from app.db.tables.events import Event
from app.errors import Unavailable
from app.resources import Resources
from app.rules.task import Status
from app.security.keyring import KeyRing
from app.transitions import limits
from app.web import feed_cursors
from app.web.feed import Feed
from app.web.listener import Ended, EventFilter
from app.web.schemas.events import event_view

_MAX_STREAM_S = 3600.0  # then the client connects again, and its key is checked again
_RETRY, _RETRY_SPREAD = timedelta(seconds=2), timedelta(seconds=3)  # spreads the reconnections
_FINAL = frozenset(f"task.{status}" for status in Status if status.final)


class ClosingResponse(StreamingResponse):
    """A response in pieces that closes its generator at its end, also when the client disconnects."""

    def __init__(
        self,
        pieces: AsyncGenerator[bytes],
        status_code: int = HTTPStatus.OK,
        headers: Mapping[str, str] | None = None,
        media_type: str | None = None,
    ) -> None:
        super().__init__(pieces, status_code, headers, media_type)
        self._pieces = pieces

    async def stream_response(self, send: Send) -> None:
        async with aclosing(self._pieces):
            await super().stream_response(send)


class EventStream(ClosingResponse):
    """A stream of server-sent events.

    FastAPI's own response class is for routes that only stream. These routes can also answer with a page, with an
    error, or with 204.
    """

    media_type = "text/event-stream"

    def __init__(
        self, frames: AsyncGenerator[bytes], status_code: int = HTTPStatus.OK, held: AsyncExitStack | None = None
    ) -> None:
        # The second header turns off the buffering of nginx.
        super().__init__(frames, status_code, {"cache-control": "no-store", "x-accel-buffering": "no"})
        self._held = held or AsyncExitStack()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held:  # also if the client has gone before the stream begins
            await super().__call__(scope, receive, send)


async def stream(
    use: Resources,
    key_id: str,
    feed: Feed,
    after: Position | None,
    event_filter: EventFilter,
    *,
    until_final: bool = False,
) -> EventStream:
    """Stream the matching events after `after`, or from now on if it is None, to a client with this key.

    `until_final`: the stream ends with the event of a final state. Raises LimitExceeded if the application of the key
    has too many streams.
    """
    held = await take_place(use, key_id)
    return EventStream(_frames(use.keys, feed, after, event_filter, key_id, until_final=until_final), held=held)


async def take_place(use: Resources, key_id: str) -> AsyncExitStack:
    """Take a place among the streams of the key's application, until the stack is closed. Raises LimitExceeded."""
    allowed = await use.db.read(limits.of_key, use.limits, key_id)
    held = AsyncExitStack()
    await held.enter_async_context(use.streaming.taken(allowed.application_id, allowed.limits.streams))
    return held


async def _frames(
    ring: KeyRing, feed: Feed, after: Position | None, event_filter: EventFilter, key_id: str, *, until_final: bool
) -> AsyncGenerator[bytes]:
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + _MAX_STREAM_S
    with suppress(Ended, Unavailable):
        async with feed.listen(after, event_filter, key_id=key_id) as listener:
            yield _opening(feed_cursors.cursor(ring, listener.position))
            while loop.time() < ends_at:
                found = await listener.next(feed.heartbeat_s)
                if found:
                    yield b"".join(_frame(ring, event) for event in found)
                else:
                    late_since = await feed.lateness.since_of(event_filter.owner)
                    yield _heartbeat(feed_cursors.cursor(ring, listener.position), late_since)
                if until_final and found and found[-1].kind in _FINAL:
                    return
    yield _RECONNECT


def _opening(cursor: str) -> bytes:
    retry = _RETRY + ids.jitter(_RETRY_SPREAD)
    return format_sse_event(id=cursor, retry=retry // timedelta(milliseconds=1), comment="the feed")


def _heartbeat(cursor: str, late_since: datetime | None) -> bytes:
    """A comment with the current id: it advances the client's Last-Event-ID, so that the id does not expire."""
    late = late_since and f"late: events since {late_since.isoformat()} are not visible yet"
    return format_sse_event(id=cursor, comment=late or "nothing new")


_RECONNECT = format_sse_event(event="reconnect", data_str='{"detail": "connect again with your Last-Event-ID"}')


@lru_cache(maxsize=1024)
def _frame(ring: KeyRing, event: Event) -> bytes:
    """The frame of an event, built once for all listeners."""
    view = event_view(ring, event)
    return format_sse_event(id=view.id, event=event.kind, data_str=json.dumps(view.model_dump(mode="json")))
