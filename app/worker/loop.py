"""The job loop: claim due jobs for which there is room, and run them until the service stops."""

import asyncio
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

from app import jobs
from app.db import Connection
from app.db.engine.fair_queue import SERVICE, owner
from app.db.tables import provider_accounts, tasks
from app.errors import Unavailable
from app.jobs import Job, Lane, NewJob, Step
from app.resources import Policy, Resources
from app.rules.task import Status
from app.telemetry import logs
from app.transitions.admit import admit
from app.worker.heartbeat import Rounds, background_loops
from app.worker.room import EnqueuedClaims, Room
from app.worker.run_job import run_job
from app.worker.running_jobs import RunningJobs
from app.worker.sweep import NO_TASK
from app.worker.wakeup import Wakeup

# Each lane has its own number of jobs at once, so that no kind of work blocks another: slow downloads must not delay
# submissions, and a slow provider must not delay downloads past the expiry of their links.
LANES = (
    Lane(frozenset({Step.COLLECT}), 8),
    Lane(frozenset({Step.DISPATCH}), 24),  # the number of tasks that a provider accepts at once
    Lane(frozenset({Step.RECONCILE}), 8),
    Lane(frozenset({Step.NOTIFY}), 64),  # an endpoint that does not answer takes 15 seconds
    Lane(frozenset({Step.ADMIT, Step.SWEEP}), 2),
    Lane(frozenset({Step.ERASE}), 1),  # may block while the store hangs; no other job depends on it
)
_GRACE = timedelta(seconds=8)  # for running jobs when the service stops
_LAST_S = 1.0  # then, for jobs to notice that they are cancelled, and for the database to release them
_ERROR_WAIT_S = 1.0
_MAX_WAIT_S = 4.0
_MIN_WAIT_S = 0.05  # avoids a busy loop while a due job waits for its task or its lane
_DATABASE_WAIT_S = 1.0  # between attempts to reach an unavailable database

log = logs.get("worker")


async def run_once(use: Resources) -> bool:
    """Run one due job. Return False if no job is due."""
    claimed = await use.db.write(jobs.claim, use.worker_id, use.now(), 1)
    for job in claimed:
        await run_job(use, job)
    return bool(claimed)


async def run(use: Resources, *, grace: timedelta = _GRACE, rounds: Rounds | None = None) -> None:
    """Run due jobs until `use.stopping` is set; then give running jobs up to `grace` to end.

    `rounds` counts the rounds. A database that does not answer delays the end by no more than two seconds.
    """
    worker = Worker(use, rounds or Rounds())
    use.db.on_jobs(worker.wakeup.notify, worker.claims)
    owner.set(SERVICE)
    async with background_loops(use, worker.running.in_time), worker.wakeup.notified_by(use.stopping):
        repeating = asyncio.create_task(worker.repeat_rounds())
        try:
            await use.stopping.wait()
            stopping_at = time.monotonic()
            worker.claims.closed = True
            _, cut = await asyncio.wait({repeating}, timeout=grace.total_seconds())
        finally:
            worker.claims.closed = True
            repeating.cancel()
        left = grace - timedelta(seconds=time.monotonic() - stopping_at)
        late = await worker.wait(left)
        if late or cut or worker.claims.left_jobs:
            await worker.release()


class Worker:
    """Claims due jobs and runs them, and those that it is given by the transactions that enqueue them."""

    def __init__(self, use: Resources, rounds: Rounds) -> None:
        room = Room([Lane(steps, limit) for steps, limit in LANES])
        self.wakeup = Wakeup()
        self.running = RunningJobs(room)
        longest = timedelta(seconds=_MAX_WAIT_S)
        self.claims = EnqueuedClaims(use.worker_id, room, use.now, longest, run=self._start, lose=self._lose_claim)
        self._use = use
        self._room = room
        self._rounds = rounds
        self._lost_claims = 0  # how often this worker may have claimed jobs without learning of them
        self._leaves_due = False  # whether the last round left jobs that are due, because of those that run

    async def repeat_rounds(self) -> None:
        """Claim due jobs whenever there may be some, until `use.stopping` is set."""
        use, started = self._use, False
        while not use.stopping.is_set():
            self.wakeup.clear()
            try:
                started = started or await start(use)
                self.claims.closed = use.stopping.is_set() or not started
                await self.wakeup.wait(await self.round() if started else _DATABASE_WAIT_S)
            except Exception:
                log.exception("round_failed")  # the worker must survive every error, and the next round may succeed
                await asyncio.sleep(_ERROR_WAIT_S)

    async def round(self) -> float:
        """Start the due jobs for which there is room. Return the seconds to wait until the next round."""
        claimed: list[Job] = []
        try:
            due = await self._use.db.read(jobs.next_due)
            if self._lost_claims or _is_due(self._use, due):
                claimed, due = await self._claim()
        except Unavailable:
            return _DATABASE_WAIT_S
        self._rounds.ended += 1
        if claimed:
            self.wakeup.found_jobs()
        for job in claimed:
            self._start(job)
        self._leaves_due = _is_due(self._use, due)
        return _seconds_until(self._use, due)

    async def _claim(self) -> tuple[list[Job], datetime | None]:
        """Claim due jobs of each lane, up to its limit. Return them, and the time of the next job that is left."""
        self.running.in_time()  # a job that hangs has no room
        lanes, claimed = self._room.take_all(), list[Job]()
        lost = self._lost_claims
        keep = self.running.ids | self.claims.pending if lost else None
        self._lost_claims += 1  # until the commit is confirmed
        try:
            claimed, due = await self._use.db.write(self._take, lanes, keep)
        finally:
            self._room.end_claim(lanes, claimed)
        self._lost_claims -= lost + 1
        return claimed, due

    def _take(
        self, connection: Connection, lanes: Sequence[Lane], keep: Collection[int] | None
    ) -> tuple[list[Job], datetime | None]:
        """Claim jobs. With `keep`, first release the others: a claim was committed, and its answer was lost."""
        if keep is not None:
            jobs.release(connection, self._use.worker_id, {*keep, *self.claims.pending})
        claimed = jobs.claim_for_lanes(connection, self._use.worker_id, self._use.now(), lanes)
        return claimed, jobs.next_due(connection)

    def _start(self, job: Job) -> None:
        self.running.start(job, self._run(job, self.running.run_of(job)))

    async def _run(self, job: Job, earlier: "asyncio.Task[bool] | None") -> bool:
        """Run a job, and return whether its end is recorded. Then its lane has room for another.

        `earlier`: a run of the same job that has not returned. If its end is recorded, the job was enqueued again and
        this is the next run. Else heartbeats were late and its lease had expired: the claim has renewed it.
        """
        try:
            if earlier is not None:
                await asyncio.wait({earlier})
                if earlier.cancelled() or earlier.exception() is not None or not earlier.result():
                    return False
            return await run_job(self._use, job)
        finally:
            if self._leaves_due:
                self.wakeup.notify()

    def _lose_claim(self) -> None:
        self._lost_claims += 1
        self.wakeup.notify()

    async def wait(self, grace: timedelta) -> bool:
        """Wait for the running jobs, and cancel those that exceed `grace`. Return whether there were any."""
        running = late = self.running.tasks
        if running:
            _, late = await asyncio.wait(running, timeout=max(0, grace.total_seconds()))
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=_LAST_S)
        await self.claims.settled(_LAST_S)
        return bool(late)

    async def release(self) -> None:
        """Release the jobs of this worker to be claimed again; without the database, once their leases expire."""
        with suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(_LAST_S):
                await self._use.db.write(jobs.release, self._use.worker_id)


def _is_due(use: Policy, due: datetime | None) -> bool:
    return due is not None and due <= use.now()


def _seconds_until(use: Policy, due: datetime | None) -> float:
    if due is None:
        return _MAX_WAIT_S
    return min(_MAX_WAIT_S, max(_MIN_WAIT_S, (due - use.now()) / timedelta(seconds=1)))


async def start(use: Resources) -> bool:
    """Release the jobs that this worker left behind, and enqueue a sweep. Return False if the database is unavailable.

    Callbacks may have been missed while the service was down, so a poll of every `submitted` task is enqueued too. The
    operator may have replaced a refused key, so accounts that are paused for that reason are probed at once.
    """

    def prepare(connection: Connection) -> None:
        now = use.now()
        jobs.release(connection, use.worker_id)
        submitted = tasks.ids_in(connection, Status.SUBMITTED)
        jobs.enqueue(connection, [NewJob(Step.RECONCILE, task_id, now) for task_id in sorted(submitted)])
        jobs.enqueue(connection, [NewJob(Step.SWEEP, NO_TASK, now)])
        provider_accounts.end_pauses(connection, provider_accounts.KEY_REFUSED, now)
        admit(connection, now)

    try:
        await use.db.write(prepare)
    except Unavailable:
        return False
    return True
