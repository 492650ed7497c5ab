"""The live feed of this process: one reader takes new events from the database and hands them to all who listen.

It reads while somebody listens and only then. What a listener missed before it came, it reads for itself.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Self

from app.db.engine.database import Database
from app.db.tables import events
from app.db.tables.events import Event, Page, Position
from app.errors import Unavailable
from app.rules.backoff import Backoff
from app.telemetry import logs

_AT_ONCE = 200  # events in one read
_MOST_WAITING = 1000  # events that wait for one listener; a listener that is further behind is let go
_LOOK_EVERY_S = 5.0  # should a wake-up be lost
# For what passes without anybody telling: another transaction that keeps events from settling, an outage.
_PASSING = Backoff(first=timedelta(milliseconds=20), longest=timedelta(seconds=1))

log = logs.get("feed")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What somebody listens to: all tasks or one, all kinds or some."""

    task_id: str | None = None
    kinds: frozenset[str] = frozenset()


_ALL = Wanted()


class Ended(Exception):
    """Nothing more comes to this listener: it fell behind, or the service stops. It may ask again from its position."""


class Feed:
    """Open it around whatever listens: at its end, and when `stopping` is set, every listener is let go."""

    def __init__(self, db: Database, stopping: asyncio.Event, most_waiting: int = _MOST_WAITING) -> None:
        self.heartbeat_s = 15.0  # how long one that streams may hear nothing
        self.end = events.START  # of what was handed on
        self.most_waiting = most_waiting
        self._db = db
        self._stopping = stopping
        self._joining = asyncio.Lock()
        self._listeners: defaultdict[str | None, set[Listener]] = defaultdict(set)  # by task; None: of all tasks
        self._woken = asyncio.Event()
        self._hears = self._over = False
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._watcher = asyncio.create_task(self._end_when_stopping())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._end()
        running = [task for task in (self._watcher, self._reader) if task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    @asynccontextmanager
    async def listen(self, after: Position | None, wanted: Wanted = _ALL) -> "AsyncGenerator[Listener]":
        """Somebody who hears what is wanted, from `after` or from now on.

        Raises Ended when the service stops, Unavailable when the database is away.
        """
        listener = Listener(self, after, wanted)
        try:
            if after is None:
                await self.join(listener)
                listener.position = self.end
            yield listener
        finally:
            self.leave(listener)

    async def join(self, listener: "Listener") -> None:
        """Hand every event after `self.end` to this listener from now on."""
        async with self._joining:
            if not self.is_reading:
                await self._start_reading()
            if self._over:
                raise Ended
            self._listeners[listener.wanted.task_id].add(listener)

    def leave(self, listener: "Listener") -> None:
        among = self._listeners.get(listener.wanted.task_id, set())
        among.discard(listener)
        if not among:
            self._listeners.pop(listener.wanted.task_id, None)
        if not self._listeners:
            self._woken.set()  # the reader ends

    @property
    def listeners(self) -> int:
        """How many are handed new events at the moment."""
        return sum(map(len, self._listeners.values()))

    @property
    def is_reading(self) -> bool:
        """Whether it reads new events from the database, as it does while somebody listens."""
        return self._reader is not None and not self._reader.done()

    async def read(self, after: Position, wanted: Wanted = _ALL) -> Page:
        return await self._db.read(
            lambda connection: events.following(connection, after, _AT_ONCE, task_id=wanted.task_id, kinds=wanted.kinds)
        )

    async def _start_reading(self) -> None:
        if not self._hears:
            loop = asyncio.get_running_loop()
            self._db.on_event(partial(_wake, loop, self._woken))
            self._hears = True
        self.end = await self._db.read(events.head)
        self._reader = asyncio.create_task(self._read_on())

    async def _read_on(self) -> None:
        try:
            settling = 0
            while self._listeners:
                self._woken.clear()
                page = await self._next_page()
                self._hand_on(page.events)
                self.end = page.end
                settling = settling + 1 if page.pending else 0
                if not page.full:
                    await self._pause(settling)
        except Exception:  # a flaw: whoever listens is sent to ask again
            log.exception("unexpected")
            self._let_go()

    async def _next_page(self) -> Page:
        failures = 0
        while True:
            try:
                return await self.read(self.end)
            except Unavailable:
                failures += 1
                await asyncio.sleep(_PASSING.wait(failures).total_seconds())

    async def _pause(self, settling: int) -> None:
        """Until there may be something new."""
        if settling:
            await asyncio.sleep(_PASSING.wait(settling).total_seconds())
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(self._woken.wait(), _LOOK_EVERY_S)

    def _hand_on(self, found: Collection[Event]) -> None:
        for event in found:
            for about in (None, event.task_id):
                for listener in tuple(self._listeners.get(about, ())):
                    listener.take(event)

    async def _end_when_stopping(self) -> None:
        await self._stopping.wait()
        self._end()

    def _end(self) -> None:
        self._over = True
        self._let_go()

    def _let_go(self) -> None:
        for listener in [each for among in self._listeners.values() for each in among]:
            listener.end()


class Listener:
    """One who reads what it missed, and then waits for what the reader hands on."""

    def __init__(self, feed: Feed, after: Position | None, wanted: Wanted) -> None:
        self.wanted = wanted
        self.position = after or events.START  # of what was given out
        self._feed = feed
        self._joined = self._live = after is None
        self._held: deque[Event] = deque()
        self._told = asyncio.Event()
        self._ended = False

    async def next(self, seconds: float) -> Sequence[Event]:
        """What is new, the oldest first; nothing when the time is over. Raises Ended, or Unavailable."""
        while not self._live:
            if missed := await self._catch_up():
                return missed
        if not self._held and not self._ended:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._told.wait(), seconds)
        found = [event for event in self._held if event.position > self.position]
        self._held.clear()
        self._told.clear()
        if self._ended and not found:
            raise Ended
        # What is not for this listener was passed too, unless it was let go in the middle.
        self.position = found[-1].position if found else max(self.position, self._feed.end)
        return found

    def take(self, event: Event) -> None:
        if self.wanted.kinds and event.kind not in self.wanted.kinds:
            return
        if len(self._held) == self._feed.most_waiting:
            self.end()
            return
        self._held.append(event)
        self._told.set()

    def end(self) -> None:
        self._ended = True
        self._told.set()
        self._feed.leave(self)

    async def _catch_up(self) -> Sequence[Event]:
        """A page of what was missed. The last one is read after joining, so that nothing falls in between."""
        page = await self._feed.read(self.position, self.wanted)
        self._live = self._joined and not page.full
        if not self._joined and not page.full:
            await self._feed.join(self)
            self._joined = True
        self.position = page.end  # not before it is sure that the page is given out: joining may end it
        return page.events


def _wake(loop: asyncio.AbstractEventLoop, woken: asyncio.Event) -> None:
    with suppress(RuntimeError):  # the loop is closed: another thread committed for the last time
        loop.call_soon_threadsafe(woken.set)
