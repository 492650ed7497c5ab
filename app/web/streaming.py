"""The feed as server-sent events: every event, a sign of life when there is none, a word to come again at the end."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from datetime import timedelta
from functools import lru_cache
from http import HTTPStatus

from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from starlette.types import Send

from app import ids
from app.db.tables.events import Event, Position
from app.errors import Unavailable
from app.rules.task import Status
from app.web.feed import Ended, Feed, Wanted
from app.web.schemas.events import event_view

_LONGEST_S = 3600.0  # a stream; its client comes again, and shows its key again
_RETRY, _RETRY_SPREAD = timedelta(seconds=2), timedelta(seconds=3)  # so that not all come back at once
_FINAL = frozenset(f"task.{status}" for status in Status if status.final)


class EventStream(StreamingResponse):
    """A stream whose generator is closed with it, also when its client is gone.

    FastAPI's own response class for this stands for routes that do nothing but stream; ours may also answer with a
    page, with a refusal, or that there is nothing to come.
    """

    media_type = "text/event-stream"

    def __init__(self, frames: AsyncGenerator[bytes], status_code: int = HTTPStatus.OK) -> None:
        # The second header keeps nginx from holding events back.
        super().__init__(frames, status_code, {"cache-control": "no-store", "x-accel-buffering": "no"})
        self._frames = frames

    async def stream_response(self, send: Send) -> None:
        async with aclosing(self._frames):
            await super().stream_response(send)


def stream(feed: Feed, after: Position | None, wanted: Wanted, *, until_final: bool = False) -> EventStream:
    """What is wanted from `after`, or from now on; `until_final` ends it with a task's last event."""
    return EventStream(_frames(feed, after, wanted, until_final=until_final))


async def _frames(feed: Feed, after: Position | None, wanted: Wanted, *, until_final: bool) -> AsyncGenerator[bytes]:
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + _LONGEST_S
    with suppress(Ended, Unavailable):
        async with feed.listen(after, wanted) as listener:
            yield _opening(listener.position)
            while loop.time() < ends_at:
                found = await listener.next(feed.heartbeat_s)
                yield b"".join(map(_frame, found)) or _sign_of_life(listener.position)
                if until_final and found and found[-1].kind in _FINAL:
                    return
    yield _COME_AGAIN


def _opening(position: Position) -> bytes:
    retry = _RETRY + ids.jitter(_RETRY_SPREAD)
    return format_sse_event(id=str(position), retry=retry // timedelta(milliseconds=1), comment="the feed")


def _sign_of_life(position: Position) -> bytes:
    """It moves the client's Last-Event-ID on too, so that one which hears little does not fall out of what is kept."""
    return format_sse_event(id=str(position), comment="nothing new")


_COME_AGAIN = format_sse_event(event="reconnect", data_str='{"detail": "connect again with your Last-Event-ID"}')


@lru_cache(maxsize=1024)
def _frame(event: Event) -> bytes:
    """Made once, however many listen."""
    return format_sse_event(
        id=str(event.position), event=event.kind, data_str=json.dumps(event_view(event).model_dump(mode="json"))
    )
