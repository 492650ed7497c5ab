"""Whether the feed is late: events are committed, and a transaction that began earlier keeps them from its readers."""

import asyncio
from datetime import datetime, timedelta

from app.clock import Now
from app.db.engine.database import Database
from app.db.queries.feed_delay import oldest_writer
from app.db.tables.events import Event, pending_since
from app.errors import Unavailable
from app.telemetry import logs

_LATE = timedelta(seconds=5)  # transactions of Fluxhook end long before
_LOOK_EVERY = timedelta(seconds=1)  # at the events of one application, for any number of its streams

log = logs.get("feed")


class Lateness:
    """Observes for how long the oldest pending event of the feed stays pending."""

    def __init__(self, db: Database, now: Now) -> None:
        self._db = db
        self._now = now
        self._pending: Event | None = None
        self._seen_at = now()
        self._logged = False
        self._looking = asyncio.Lock()
        self._of: dict[str, tuple[datetime, datetime | None]] = {}  # by application: when it was looked at, and `since`

    @property
    def since(self) -> datetime | None:
        """When the oldest event was written that readers cannot see yet; None if the feed is not late."""
        is_late = self._pending is not None and self._now() - self._seen_at > _LATE
        return self._pending.at if self._pending is not None and is_late else None

    async def since_of(self, owner: str | None) -> datetime | None:
        """Return `since` for the events of one application; None stands for all of them.

        Another application must not learn when events were written that it may not see.
        """
        if owner is None or self.since is None:
            return self.since
        async with self._looking:
            looked_at, since = self._of.get(owner, (None, None))
            if looked_at is None or self._now() - looked_at > _LOOK_EVERY:
                try:
                    since = await self._db.read(pending_since, owner)
                except Unavailable:
                    return since
                self._of[owner] = self._now(), since
            return since

    async def observe(self, pending: Event | None) -> bool:
        """Take note of the oldest pending event. Return whether the feed is late, and log when that changes.

        The time of the event alone does not show it: after an outage of the database, old events are written.
        """
        if pending is None or self._pending is None or pending.position != self._pending.position:
            self._pending, self._seen_at = pending, self._now()
        since = self.since
        if since is not None and not self._logged:
            log.warning("feed_delayed", since=str(since), blocked_by=await self._blocker())
        elif since is None and self._logged:
            log.info("feed_resumed")
            self._of.clear()
        self._logged = since is not None
        return self._logged

    async def _blocker(self) -> str:
        try:
            return str(await self._db.read(oldest_writer) or "a transaction that has just ended")
        except Unavailable as error:
            return error.detail


def late_since(pending: Event | None, now: datetime) -> datetime | None:
    """Return the time of the oldest pending event if it is so old that the feed seems to be late, else None."""
    return pending.at if pending is not None and now - pending.at > _LATE else None
