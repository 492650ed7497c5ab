"""A listener of the feed: reads the earlier events from the database, then takes new events from the reader."""

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from app.db.engine.feed_order import START, Position
from app.db.tables.events import Event, Page


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Selects the events of one task or of all tasks, and of some kinds or, if `kinds` is empty, of all kinds.

    `owner`: an application, whose events alone are selected; None selects those of all.
    """

    task_id: str | None = None
    kinds: frozenset[str] = frozenset()
    owner: str | None = None

    def matches(self, event: Event) -> bool:
        return self.owner in {None, event.application_id} and (not self.kinds or event.kind in self.kinds)


ALL = EventFilter()


class Ended(Exception):
    """The listener gets no more events: it fell behind, or the service stops. Its position stays valid."""


class Revoked(Ended):
    """The API key of the listener is not valid any more."""


class Source(Protocol):
    """What a listener needs of the feed."""

    end: Position
    max_pending: int

    async def read(self, after: Position, event_filter: EventFilter = ALL) -> Page: ...

    async def join(self, listener: "Listener") -> None: ...

    def leave(self, listener: "Listener") -> None: ...


class Listener:
    """Reads the earlier events from the database, then takes new events from the reader."""

    def __init__(
        self, feed: Source, after: Position | None, event_filter: EventFilter, key_id: str | None = None
    ) -> None:
        self.event_filter = event_filter
        self.key_id = key_id
        self.position = after or START  # the position after the events that `next` returned
        self._feed = feed
        self._joined = self._live = after is None
        self._pending: deque[Event] = deque()
        self._woken = asyncio.Event()
        self._ended = self._revoked = False

    async def next(self, seconds: float) -> Sequence[Event]:
        """Return the next events, oldest first; none if the time passes without one, or while the feed is late.

        Raises Ended or Unavailable.
        """
        while not self._live:
            if self._revoked:
                raise Revoked
            if missed := await self._catch_up():
                return missed
        if not self._pending and not self._ended:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), seconds)
        if self._revoked:
            raise Revoked
        found = [event for event in self._pending if event.position > self.position]
        self._pending.clear()
        self._woken.clear()
        if self._ended and not found:
            raise Ended
        # Without an event for this listener, its position advances to the end of the feed.
        self.position = found[-1].position if found else max(self.position, self._feed.end)
        return found

    def take(self, event: Event) -> None:
        """Queue an event if it matches; end the listener if its queue is full."""
        if not self.event_filter.matches(event):
            return
        if len(self._pending) == self._feed.max_pending:
            self.end()
            return
        self._pending.append(event)
        self._woken.set()

    def wake(self) -> None:
        """Let `next` return before its time has passed, also without an event."""
        self._woken.set()

    def end(self) -> None:
        self._ended = True
        self._woken.set()
        self._feed.leave(self)

    def revoke(self) -> None:
        self._revoked = True
        self.end()

    async def _catch_up(self) -> Sequence[Event]:
        """Read a page of earlier events. The last page is read after joining, so that no event is missed in between."""
        page = await self._feed.read(self.position, self.event_filter)
        self._live = self._joined and not page.full
        if not self._joined and not page.full:
            await self._feed.join(self)
            self._joined = True
        self.position = page.end  # set last: joining may raise, and the page would be lost
        return page.events
