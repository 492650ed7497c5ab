"""When keys were last used, to a minute. It is written beside the requests, and a use may be lost with its process."""

import asyncio
from contextlib import suppress
from datetime import datetime, timedelta

from app.db.engine.database import Database
from app.db.tables import api_keys
from app.db.tables.api_keys import Key
from app.errors import Unavailable

_PRECISION = timedelta(minutes=1)
_MOST_KEYS = 10_000  # remembered at once; without a memory, a key is only written more often
_COLLECT_S = 1.0  # so that the uses of many keys make one statement


class KeyUse:
    """The uses that this process has seen. `write` runs until it is cancelled."""

    def __init__(self) -> None:
        self._seen: dict[str, datetime] = {}
        self._applications: dict[str, str] = {}  # by the SHA-256 of the key
        self._pending: dict[str, datetime] = {}
        self._woken = asyncio.Event()

    def application_of(self, sha256: str) -> str | None:
        """Return the application of a key that was valid in this process; None for any other. It may be invalid now."""
        return self._applications.get(sha256)

    def note(self, key: Key, now: datetime) -> None:
        """Note a use, unless one in the last minute is known."""
        if len(self._applications) >= _MOST_KEYS:
            self._applications.clear()
        self._applications[key.sha256] = key.application_id
        last = max(filter(None, (key.last_used_at, self._seen.get(key.id))), default=None)
        if last is not None and now - last < _PRECISION:
            return
        if len(self._seen) >= _MOST_KEYS:
            self._seen.clear()
        self._seen[key.id] = self._pending[key.id] = now
        self._woken.set()

    async def write(self, db: Database) -> None:
        while True:
            await self._woken.wait()
            await asyncio.sleep(_COLLECT_S)
            self._woken.clear()
            await self.flush(db)

    async def flush(self, db: Database) -> None:
        """Write the uses that were noted since the last call."""
        used, self._pending = self._pending, {}
        if used:
            with suppress(Unavailable):  # the next use is written
                await db.write(api_keys.touch, sorted(used), max(used.values()))
