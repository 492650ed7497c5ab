"""A provider whose tasks end when a test says so."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import httpx

from app.clock import utc_now
from app.twin import Rules, Twin

_WORKING = timedelta(minutes=5)


class HeldTwin:
    """`twin`, and its clock. It stands still until `finish`, which ends the tasks that it has accepted."""

    def __init__(self, send: httpx.AsyncClient) -> None:
        self._at = utc_now()
        self.twin = Twin(Rules(megapixels=0.02, ready_after=_WORKING), now=self._now, send=send, seed=1)

    def finish(self) -> None:
        self._at += _WORKING
        self.twin.outbox.changed.set()

    async def has_charged(self, count: int) -> bool:
        """Whether it has accepted this number of tasks."""
        return len(self.twin.ledger()["tasks"]) == count

    def _now(self) -> datetime:
        return self._at


@asynccontextmanager
async def held_twin() -> AsyncGenerator[HeldTwin]:
    async with httpx.AsyncClient(trust_env=False, timeout=60) as send:
        yield HeldTwin(send)
