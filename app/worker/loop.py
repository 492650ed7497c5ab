"""The job loop: claim due jobs for which there is room, and run them until the service stops."""

import asyncio
import time
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

from app import jobs
from app.db import Connection
from app.db.tables import provider_accounts, tasks
from app.errors import Unavailable
from app.jobs import Job, Lane, NewJob, Step
from app.resources import Policy, Resources
from app.rules.task import Status
from app.telemetry import logs
from app.transitions.admit import admit
from app.worker.heartbeat import Rounds, background_loops
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
_MAX_WAIT_S = 5.0
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
    wakeup, running_jobs = Wakeup(), RunningJobs()
    use.db.on_jobs(wakeup.notify)
    async with background_loops(use, running_jobs.in_time), wakeup.notified_by(use.stopping):
        repeating = asyncio.create_task(_repeat_rounds(use, running_jobs, wakeup, rounds or Rounds()))
        try:
            await use.stopping.wait()
            stopping_at = time.monotonic()
            _, cut = await asyncio.wait({repeating}, timeout=grace.total_seconds())
        finally:
            repeating.cancel()
        left = grace - timedelta(seconds=time.monotonic() - stopping_at)
        await _finish(use, running_jobs.tasks, left, may_have_claimed=bool(cut))


async def _repeat_rounds(use: Resources, running_jobs: RunningJobs, wakeup: Wakeup, rounds: Rounds) -> None:
    started = False
    while not use.stopping.is_set():
        wakeup.clear()
        try:
            started = started or await start(use)
            await wakeup.wait(await _round(use, running_jobs, wakeup, rounds) if started else _DATABASE_WAIT_S)
        except Exception:
            log.exception("round_failed")  # the worker must survive every error, and the next round may succeed
            await asyncio.sleep(_ERROR_WAIT_S)


async def _round(use: Resources, running_jobs: RunningJobs, wakeup: Wakeup, rounds: Rounds) -> float:
    """Start the due jobs for which there is room. Return the seconds to wait until the next round."""
    claimed: list[Job] = []
    try:
        due = await use.db.read(jobs.next_due)
        if running_jobs.lost_claim or _is_due(use, due):
            claimed, due = await _claim(use, running_jobs)
    except Unavailable:
        return _DATABASE_WAIT_S
    rounds.ended += 1
    if claimed:
        wakeup.found_jobs()
    for job in claimed:
        running_jobs.start(job, _run_claimed(use, job, running_jobs, wakeup, running_jobs.run_of(job)))
    running_jobs.leave_due = _is_due(use, due)
    return _seconds_until(use, due)


async def _run_claimed(
    use: Resources, job: Job, running_jobs: RunningJobs, wakeup: Wakeup, earlier: "asyncio.Task[bool] | None"
) -> bool:
    """Run a job, and return whether its end is recorded. Then its lane has room for another.

    `earlier`: a run of the same job that has not returned. If its end is recorded, the job was enqueued again and this
    is the next run. Else heartbeats were late and its lease had expired: the claim has renewed it.
    """
    try:
        if earlier is not None:
            await asyncio.wait({earlier})
            if earlier.cancelled() or earlier.exception() is not None or not earlier.result():
                return False
        return await run_job(use, job)
    finally:
        if running_jobs.leave_due:
            wakeup.notify()


def _is_due(use: Policy, due: datetime | None) -> bool:
    return due is not None and due <= use.now()


def _seconds_until(use: Policy, due: datetime | None) -> float:
    if due is None:
        return _MAX_WAIT_S
    return min(_MAX_WAIT_S, max(_MIN_WAIT_S, (due - use.now()) / timedelta(seconds=1)))


async def _finish(
    use: Resources, running: set[asyncio.Task[bool]], grace: timedelta, *, may_have_claimed: bool
) -> None:
    """Wait for running jobs; cancel those that exceed `grace`, and release them to be claimed again.

    `may_have_claimed`: this worker may have claimed jobs that it does not run.
    """
    late = running
    if running:
        _, late = await asyncio.wait(running, timeout=max(0, grace.total_seconds()))
    for task in late:
        task.cancel()
    if late:
        await asyncio.wait(late, timeout=_LAST_S)
    if late or may_have_claimed:
        with suppress(Unavailable, TimeoutError):  # their leases then expire
            async with asyncio.timeout(_LAST_S):
                await use.db.write(jobs.release, use.worker_id)


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


async def _claim(use: Resources, running_jobs: RunningJobs) -> tuple[list[Job], datetime | None]:
    """Claim due jobs of each lane, up to its limit. Return them, and the time of the next job that is left."""
    by_step = Counter(job.step for job in running_jobs.in_time())
    free = [Lane(steps, limit - sum(by_step[step] for step in steps)) for steps, limit in LANES]
    lanes = [lane for lane in free if lane.limit > 0]
    lost = running_jobs.lost_claim
    running_jobs.lost_claim = True  # until the commit is confirmed
    claimed, due = await use.db.write(_take, use, lanes, running_jobs.ids if lost else None)
    running_jobs.lost_claim = False
    return claimed, due


def _take(
    connection: Connection, use: Resources, lanes: Sequence[Lane], running: Collection[int] | None
) -> tuple[list[Job], datetime | None]:
    """Claim jobs. With `running`, first release the others: a claim was committed, and its answer was lost."""
    if running is not None:
        jobs.release(connection, use.worker_id, running)
    claimed = jobs.claim_for_lanes(connection, use.worker_id, use.now(), lanes)
    return claimed, jobs.next_due(connection)
