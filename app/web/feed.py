"""The live feed of this process: one reader takes new events from the database and passes them to all listeners.

The reader runs only while there are listeners. A listener reads earlier events from the database itself.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Self

from app.clock import Now, utc_now
from app.db.engine.database import Database
from app.db.engine.fair_queue import service_task
from app.db.engine.feed_order import START, Position
from app.db.tables import api_keys, events
from app.db.tables.events import Event, Page
from app.errors import Unavailable
from app.rules.backoff import Backoff
from app.telemetry import logs
from app.web.lateness import Lateness
from app.web.listener import ALL, Ended, EventFilter, Listener

_BATCH = 200  # events in one read
_MAX_PENDING = 1000  # events that wait for one listener; a listener that is further behind is ended
_READ_EVERY_S = 5.0  # in case a notification is lost
_WAKE_LATE_S = 5.0  # between wakeups of all listeners while the feed is late
# For conditions whose end causes no notification: a transaction that keeps events from settling, an outage.
_RETRY = Backoff(first=timedelta(milliseconds=20), longest=timedelta(seconds=1))

REVOKED = "the API key was revoked, or has expired"

log = logs.get("feed")


class Feed:
    """The feed, an async context manager. At its end, and when `stopping` is set, every listener is ended."""

    def __init__(
        self, db: Database, stopping: asyncio.Event, max_pending: int = _MAX_PENDING, *, now: Now = utc_now
    ) -> None:
        self.check_keys_s = 2.0  # between two checks of the keys of open streams
        self.heartbeat_s = 15.0  # the longest time without a frame in a stream
        self.end = START  # the position after the events that were passed on
        self.max_pending = max_pending
        self.lateness = Lateness(db, now)
        self._db = db
        self._now = now
        self._open: set[Listener] = set()  # those of a key, which may be revoked
        self._stopping = stopping
        self._joining = asyncio.Lock()
        self._listeners: defaultdict[str | None, set[Listener]] = defaultdict(set)  # by task id; None: all tasks
        self._woken = asyncio.Event()
        self._subscribed = self._over = False
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._watcher = asyncio.create_task(self._end_when_stopping())
        self._checker = service_task(self._check_keys())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._end()
        running = [task for task in (self._watcher, self._checker, self._reader) if task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    @asynccontextmanager
    async def listen(
        self, after: Position | None, event_filter: EventFilter = ALL, *, key_id: str | None = None
    ) -> AsyncGenerator[Listener]:
        """Open a listener for the events that match, starting after `after`, or with the next event if it is None.

        It ends within seconds, with Revoked, once the key `key_id` is not valid any more.

        Raises Ended if the service stops, Unavailable if the database is unavailable.
        """
        listener = Listener(self, after, event_filter, key_id)
        if key_id is not None:
            self._open.add(listener)
        try:
            if after is None:
                await self.join(listener)
                listener.position = self.end
            yield listener
        finally:
            self._open.discard(listener)
            self.leave(listener)

    async def join(self, listener: Listener) -> None:
        """Pass every event after `self.end` to this listener from now on. Raises Ended or Unavailable."""
        async with self._joining:
            if not self.is_reading:
                await self._start_reading()
            if self._over:
                raise Ended
            self._listeners[listener.event_filter.task_id].add(listener)

    def leave(self, listener: Listener) -> None:
        task_id = listener.event_filter.task_id
        listeners = self._listeners.get(task_id, set())
        listeners.discard(listener)
        if not listeners:
            self._listeners.pop(task_id, None)
        if not self._listeners:
            self._woken.set()  # the reader ends

    @property
    def listeners(self) -> int:
        """The number of listeners that currently get new events from the reader."""
        return sum(map(len, self._listeners.values()))

    @property
    def is_reading(self) -> bool:
        """Whether the reader is running, as it is while there are listeners."""
        return self._reader is not None and not self._reader.done()

    async def read(self, after: Position, event_filter: EventFilter = ALL) -> Page:
        """Read the next matching events from the database. Raises Unavailable."""
        task_id, kinds, owner = event_filter.task_id, event_filter.kinds, event_filter.owner
        return await self._db.read(events.following, after, _BATCH, task_id=task_id, kinds=kinds, owner=owner)

    async def _start_reading(self) -> None:
        if not self._subscribed:
            loop = asyncio.get_running_loop()
            self._db.on_events(partial(_wake, loop, self._woken))
            self._subscribed = True
        self.end = await service_task(self._db.read(events.head))
        self._reader = service_task(self._follow())

    async def _follow(self) -> None:
        try:
            settling, clock = 0, asyncio.get_running_loop().time
            wake_at = clock()
            while self._listeners:
                self._woken.clear()
                page = await self._next_page()
                self._pass_on(page.events)
                self.end = page.end
                settling = settling + 1 if page.pending else 0
                if await self.lateness.observe(page.pending) and clock() >= wake_at:
                    self._wake_listeners()
                    wake_at = clock() + _WAKE_LATE_S
                if not page.full:
                    await self._pause(settling)
        except Exception:  # a bug: every listener is ended, and its client connects again
            log.exception("unexpected")
            self._end_listeners()

    async def _next_page(self) -> Page:
        failures = 0
        while True:
            try:
                return await self.read(self.end)
            except Unavailable:
                failures += 1
                await asyncio.sleep(_RETRY.wait(failures).total_seconds())

    async def _pause(self, settling: int) -> None:
        """Wait until there may be new events."""
        if settling:
            await asyncio.sleep(_RETRY.wait(settling).total_seconds())
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(self._woken.wait(), _READ_EVERY_S)

    def _pass_on(self, new_events: Collection[Event]) -> None:
        for event in new_events:
            for task_id in (None, event.task_id):
                for listener in tuple(self._listeners.get(task_id, ())):
                    listener.take(event)

    def _wake_listeners(self) -> None:
        """Have listeners return without an event, so that they can tell their clients, or look for themselves."""
        for listeners in self._listeners.values():
            for listener in listeners:
                listener.wake()

    async def _check_keys(self) -> None:
        """End the listeners whose key was revoked or has expired, by any process."""
        while True:
            await asyncio.sleep(self.check_keys_s)
            key_ids = {listener.key_id for listener in self._open if listener.key_id is not None}
            if not key_ids:
                continue
            try:
                valid = await self._db.read(api_keys.valid_among, key_ids, self._now())
            except Unavailable:
                continue
            for listener in [listener for listener in self._open if listener.key_id in key_ids - valid]:
                listener.revoke()

    async def _end_when_stopping(self) -> None:
        await self._stopping.wait()
        self._end()

    def _end(self) -> None:
        self._over = True
        self._end_listeners()

    def _end_listeners(self) -> None:
        for listener in [listener for listeners in self._listeners.values() for listener in listeners]:
            listener.end()


def _wake(loop: asyncio.AbstractEventLoop, woken: asyncio.Event) -> None:
    with suppress(RuntimeError):  # another thread committed after the loop was closed
        loop.call_soon_threadsafe(woken.set)
