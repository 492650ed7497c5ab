"""The room of a worker for more jobs, by lane, and the jobs that it claims in the transactions that enqueue them."""

import asyncio
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

from app import clock
from app.jobs import Job, Lane, NewJob, Step


class Room:
    """How many more jobs each lane of a worker may run. Thread-safe, because SQLite is written by a thread of its own.

    Once a job of a lane has to wait, the later ones wait behind it, until a claim has taken all that waited.
    """

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self._lanes = lanes
        self._lane_of = {step: number for number, lane in enumerate(lanes) for step in lane.steps}
        self._free = [lane.limit for lane in lanes]
        self._has_waiting = [False] * len(lanes)
        self._lock = threading.Lock()

    def take(self, step: Step) -> bool:
        """Take the room of one job; return False if it must wait."""
        lane = self._lane_of[step]
        with self._lock:
            if self._free[lane] <= 0 or self._has_waiting[lane]:
                self._has_waiting[lane] = True
                return False
            self._free[lane] -= 1
        return True

    def take_all(self) -> list[Lane]:
        """Take all that is free, for a claim: the lanes with the numbers of jobs that they have room for."""
        with self._lock:
            taken = [Lane(lane.steps, free) for lane, free in zip(self._lanes, self._free, strict=True) if free > 0]
            self._free = [min(free, 0) for free in self._free]
        return taken

    def end_claim(self, taken: Sequence[Lane], claimed: Collection[Job]) -> None:
        """Give back what a claim did not use."""
        steps = [job.step for job in claimed]
        with self._lock:
            for steps_of_lane, limit in taken:
                lane = self._lane_of[next(iter(steps_of_lane))]
                unused = limit - sum(step in steps_of_lane for step in steps)
                self._free[lane] += unused
                self._has_waiting[lane] = unused == 0

    def give(self, *steps: Step) -> None:
        with self._lock:
            for step in steps:
                self._free[self._lane_of[step]] += 1


class EnqueuedClaims:
    """Claims jobs in the transactions that enqueue them: the `jobs.Claimer` of one worker.

    `run` is called on the event loop for each job whose claim is durable, unless the worker is `closed`. `lose` is
    called there if nothing is known of a claim. Create it on the event loop.
    """

    def __init__(
        self,
        holder: str,
        room: Room,
        now: clock.Now,
        soon: timedelta,
        run: Callable[[Job], object],
        lose: Callable[[], object],
    ) -> None:
        self.holder = holder
        self.closed = True
        self.pending: frozenset[int] = frozenset()  # the jobs that are claimed, and neither running nor withdrawn
        self.left_jobs = False  # whether jobs were claimed that the worker does not run, because it is closed
        self._room = room
        self._now = now
        self._soon = soon
        self._run = run
        self._lose = lose
        self._loop = asyncio.get_running_loop()
        self._is_settled = asyncio.Event()
        self._lock = threading.Lock()

    def reserve(self, new_jobs: Collection[NewJob]) -> list[NewJob]:
        if self.closed:
            return []
        now = self._now()
        return [job for job in new_jobs if job.run_at <= now and self._room.take(job.step)]

    def give_back(self, new_jobs: Collection[NewJob]) -> None:
        self._room.give(*(job.step for job in new_jobs))

    def claimed(self, claimed: Sequence[Job]) -> None:
        with self._lock:
            self.pending |= {job.id for job in claimed}

    def start(self, claimed: Sequence[Job]) -> None:
        with suppress(RuntimeError):  # the event loop is closed, and this thread made one of the last commits
            self._loop.call_soon_threadsafe(self._start, claimed)

    def withdraw(self, claimed: Sequence[Job]) -> None:
        self._room.give(*(job.step for job in claimed))
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._withdraw, claimed)

    def is_soon(self, run_at: datetime) -> bool:
        return self.closed or run_at - self._now() < self._soon

    async def settled(self, seconds: float) -> None:
        """Wait, `seconds` at most, until the transactions that have claimed jobs are over. For a closed worker."""
        if self.pending:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._is_settled.wait()

    def _start(self, claimed: Sequence[Job]) -> None:
        for job in claimed if not self.closed else ():
            self._run(job)
        self.left_jobs |= self.closed
        self._forget(claimed)

    def _withdraw(self, claimed: Sequence[Job]) -> None:
        self.left_jobs |= self.closed
        self._lose()
        self._forget(claimed)

    def _forget(self, jobs: Sequence[Job]) -> None:
        with self._lock:
            self.pending -= {job.id for job in jobs}
        if self.closed and not self.pending:
            self._is_settled.set()
