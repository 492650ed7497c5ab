"""Live parts of pages: a stream of HTML, sent again after events of the feed."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from typing import NamedTuple

from fastapi.sse import format_sse_event

from app.errors import Unavailable
from app.resources import Resources
from app.web.feed import Feed
from app.web.listener import Ended, EventFilter
from app.web.streaming import EventStream, take_place

_MAX_STREAM_S = 600.0  # then the browser connects again, and its session is checked again
_RETRY_MS = 3000


class Part(NamedTuple):
    """A part of a page, and whether it can still change."""

    html: str
    is_final: bool = False


async def live(
    use: Resources,
    key_id: str,
    feed: Feed,
    event_filter: EventFilter,
    read: Callable[[], Awaitable[Part]],
    *,
    rest_s: float,
    at_least_s: float,
) -> EventStream:
    """Stream a part now, and whenever a matching event arrives, until it is final.

    `key_id`: the visitor's key, whose application has a limited number of streams. `rest_s`: the shortest time between
    two reads. `at_least_s`: the longest, for what changes without an event. Raises LimitExceeded.
    """
    held = await take_place(use, key_id)
    return EventStream(_frames(feed, event_filter, key_id, read, rest_s, at_least_s), held=held)


async def _frames(
    feed: Feed,
    event_filter: EventFilter,
    key_id: str,
    read: Callable[[], Awaitable[Part]],
    rest_s: float,
    at_least_s: float,
) -> AsyncGenerator[bytes]:
    ends_at = asyncio.get_running_loop().time() + _MAX_STREAM_S
    sent = None
    with suppress(Ended, Unavailable):
        async with feed.listen(None, event_filter, key_id=key_id) as listener:
            yield format_sse_event(retry=_RETRY_MS, comment="live")
            while asyncio.get_running_loop().time() < ends_at:
                part = await read()
                if part.html != sent:
                    yield format_sse_event(event="html", data_str=part.html)
                    sent = part.html
                else:
                    yield format_sse_event(comment="the same")  # shows whether the browser is still there
                if part.is_final:
                    yield format_sse_event(event="end", data_str="final")
                    return
                await asyncio.sleep(rest_s)
                await listener.next(at_least_s)
