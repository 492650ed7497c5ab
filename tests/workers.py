"""A worker that a test drives."""

import asyncio
from datetime import timedelta

from app.jobs import Job, Lane
from app.resources import Resources
from app.worker import loop
from app.worker.room import EnqueuedClaims, Room
from app.worker.run_job import run_job


class OneByOneWorker:
    """A worker that runs one job at a time: those that it is given when they are enqueued, then those that are due."""

    def __init__(self, use: Resources) -> None:
        self._use = use
        self._room = Room([Lane(steps, limit) for steps, limit in loop.LANES])
        self._given: list[Job] = []
        self._claims = EnqueuedClaims(
            use.worker_id, self._room, use.now, timedelta(), run=self._given.append, lose=lambda: None
        )
        self._claims.closed = False
        use.db.on_jobs(lambda: None, self._claims)

    async def work(self) -> None:
        """Run jobs until none is due."""
        while await self.run_given() or await loop.run_once(self._use):
            pass

    async def run_given(self) -> bool:
        """Run one of the jobs that it was given; return False if there are none."""
        while self._claims.pending:  # noqa: ASYNC110 - until the event loop has passed them on
            await asyncio.sleep(0)
        if not self._given:
            return False
        job = self._given.pop(0)
        await run_job(self._use, job)
        self._room.give(job.step)
        return True
