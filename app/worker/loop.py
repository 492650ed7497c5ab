"""The job loop: claim due jobs, run their steps, and finish, retry or dead-letter each job."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import assert_never

from opentelemetry.trace import Span, SpanKind

from app import ids, jobs
from app.collect import collect
from app.db import Connection
from app.db.engine.database import write_until_available
from app.db.tables import provider_accounts, tasks
from app.dispatch import dispatch
from app.errors import FluxhookError, Unavailable
from app.jobs import Job, NewJob, Step
from app.notify import notify
from app.reconcile import reconcile
from app.resources import Resources
from app.rules.backoff import STEP_FAILED
from app.rules.task import Status
from app.telemetry import logs, metrics, tracing
from app.transitions.admit import admit, readmit
from app.transitions.erase import remove_images
from app.worker.heartbeat import Rounds, background_loops
from app.worker.running_jobs import RunningJobs
from app.worker.sweep import NO_TASK, sweep
from app.worker.wakeup import Wakeup

# Each lane has its own number of jobs at once, so that no kind of work blocks another: slow downloads must not delay
# submissions, and a slow provider must not delay downloads past the expiry of their links.
LANES: tuple[tuple[frozenset[Step], int], ...] = (
    (frozenset({Step.COLLECT}), 8),
    (frozenset({Step.DISPATCH}), 24),  # the number of tasks that a provider accepts at once
    (frozenset({Step.RECONCILE}), 8),
    (frozenset({Step.NOTIFY}), 64),  # an endpoint that does not answer takes 15 seconds
    (frozenset({Step.ADMIT, Step.SWEEP}), 2),
    (frozenset({Step.ERASE}), 1),  # may block while the store hangs; no other job depends on it
)
_MAX_FAILURES = 10
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
    """Start the due jobs for which there is room. Return the seconds to wait until the next round; 0 if any started."""
    try:
        due = await use.db.read(jobs.next_due)
        claimed = [] if due is None or due > use.now() else await _claim(use, running_jobs)
    except Unavailable:
        return _DATABASE_WAIT_S
    rounds.ended += 1
    if due is None or due > use.now():
        return _seconds_until(use, due)
    for job in claimed:
        running_jobs.start(job, _run_claimed(use, job, wakeup))
    return 0 if claimed else _MIN_WAIT_S


async def _run_claimed(use: Resources, job: Job, wakeup: Wakeup) -> None:
    """Run a job. At its end its lane has room for another."""
    try:
        await run_job(use, job)
    finally:
        wakeup.notify()


def _seconds_until(use: Resources, due: datetime | None) -> float:
    if due is None:
        return _MAX_WAIT_S
    return min(_MAX_WAIT_S, max(_MIN_WAIT_S, (due - use.now()) / timedelta(seconds=1)))


async def _finish(
    use: Resources, running: set[asyncio.Task[None]], grace: timedelta, *, may_have_claimed: bool
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


async def run_job(use: Resources, job: Job) -> None:
    """Run the step of one job; then finish the job, schedule a retry, or make it a dead letter."""
    started = time.monotonic()
    fields: dict[str, str | int] = {"step": job.step, "task_id": job.task_id, "attempt": job.failures + 1}
    with (
        tracing.span(f"job {job.step}", SpanKind.CONSUMER, await _traceparent_of(use, job), (), **fields) as span,
        logs.collecting() as facts,
    ):
        error = await _run_step(use, job)
        await _conclude(use, job, error)
        _report(job.step, error, time.monotonic() - started, {**fields, **facts}, span)


async def _run_step(use: Resources, job: Job) -> Exception | None:
    """Run the step of a job, and return its error."""
    try:
        match job.step:
            case Step.DISPATCH:
                await dispatch(use, job.task_id)
            case Step.RECONCILE:
                await reconcile(use, job.task_id)
            case Step.COLLECT:
                await collect(use, job.task_id)
            case Step.ADMIT:
                await readmit(use, job.task_id)
            case Step.NOTIFY:
                await notify(use, job.task_id)
            case Step.SWEEP:
                await sweep(use)
            case Step.ERASE:
                await remove_images(use, job.task_id)
            case _:
                assert_never(job.step)
    except Exception as caught:  # noqa: BLE001 - whatever a step raises, its job must be recorded
        return caught
    return None


def _report(step: Step, error: Exception | None, seconds: float, fields: Mapping[str, object], span: Span) -> None:
    """Record the outcome of a job attempt in log, metrics and span."""
    line = {**fields, "ms": round(seconds * 1000)}
    outcome = "done" if error is None else "failed"
    metrics.job_attempts.labels(step, outcome).observe(seconds)
    if error is None:
        log.info("job", outcome=outcome, **line)
        return
    code = error.code if isinstance(error, FluxhookError) else "internal_error"
    if isinstance(error, Unavailable) and error.resource is not None:
        line["resource"] = error.resource
    tracing.fail(span, code)
    if isinstance(error, FluxhookError):
        log.warning("job", outcome=outcome, code=code, **line)
    else:
        log.error("job", outcome=outcome, code=code, exc_info=error, **line)


async def _traceparent_of(use: Resources, job: Job) -> str | None:
    """Return the traceparent of the request that submitted the task; None without one, or if tracing is off."""
    if not tracing.is_on():
        return None
    try:
        task = await use.db.read(tasks.get, job.task_id)
    except Unavailable:
        return None
    return None if task is None else task.traceparent


async def _conclude(use: Resources, job: Job, error: Exception | None) -> None:
    """Record the outcome of a job."""
    await write_until_available(use.db, _record_outcome, use, job, error)


def _record_outcome(connection: Connection, use: Resources, job: Job, error: Exception | None) -> None:
    if error is None:
        jobs.finish(connection, job)
    elif job.failures + 1 >= _MAX_FAILURES and not _is_temporary(error):
        jobs.dead_letter(connection, job, type(error).__name__)
    else:
        wait = STEP_FAILED.wait(job.failures + 1)
        jobs.retry(connection, job, use.now() + ids.jittered(wait), type(error).__name__)


def _is_temporary(error: Exception) -> bool:
    """Whether the error passes by itself, as an outage does: the job is then retried without limit."""
    return isinstance(error, FluxhookError) and error.retryable


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
        for account_id in provider_accounts.end_pauses(connection, provider_accounts.KEY_REFUSED, now):
            admit(connection, account_id, now)

    try:
        await use.db.write(prepare)
    except Unavailable:
        return False
    return True


async def _claim(use: Resources, running_jobs: RunningJobs) -> list[Job]:
    """Claim due jobs of each lane, up to its limit."""
    running = running_jobs.in_time()
    by_step = Counter(job.step for job in running)
    free = [(lane, limit - sum(by_step[step] for step in lane)) for lane, limit in LANES]

    def take(connection: Connection) -> list[Job]:
        now = use.now()
        claims = (jobs.claim(connection, use.worker_id, now, count, lane) for lane, count in free if count > 0)
        return [job for claimed in claims for job in claimed]

    # If heartbeats were late, the leases of running jobs have expired, and a claim can return these jobs.
    return [job for job in await use.db.write(take) if job not in running]
