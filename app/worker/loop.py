"""Run the jobs that the steps leave: which step a job means, and what becomes of one that fails."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from opentelemetry.trace import Span, SpanKind

from app import ids, jobs
from app.collect import collect
from app.db import Connection
from app.db.engine.database import write_until_available
from app.db.tables import tasks
from app.dispatch import dispatch
from app.errors import FluxhookError, Unavailable
from app.jobs import Job, Step
from app.notify import notify
from app.reconcile import reconcile
from app.resources import Resources
from app.rules.backoff import STEP_FAILED
from app.rules.task import Status
from app.telemetry import logs, metrics, tracing
from app.transitions.admit import wake
from app.transitions.erase import remove_images
from app.worker.heartbeat import heartbeats
from app.worker.sweep import NO_TASK, sweep
from app.worker.wakeup import Wakeup

STEPS: Mapping[Step, Callable[[Resources, str], Awaitable[None]]] = {
    Step.DISPATCH: dispatch,
    Step.RECONCILE: reconcile,
    Step.COLLECT: collect,
    Step.ADMIT: wake,
    Step.NOTIFY: notify,
    Step.SWEEP: sweep,
    Step.ERASE: remove_images,
}

# Each kind of work has its own hands, so that no kind waits for another: a slow download must not keep tasks from
# being submitted, nor a slow provider a download from its deadline.
LANES: tuple[tuple[frozenset[Step], int], ...] = (
    (frozenset({Step.COLLECT}), 8),
    (frozenset({Step.DISPATCH}), 24),  # as many as a provider takes at once
    (frozenset({Step.RECONCILE}), 8),
    (frozenset({Step.NOTIFY}), 64),  # an endpoint that does not answer holds one for 15 seconds
    (frozenset({Step.ADMIT, Step.SWEEP}), 2),
    (frozenset({Step.ERASE}), 1),  # a store that hangs holds it, and nothing waits for what is erased
)
_MAX_FAILURES = 10
_GRACE = timedelta(seconds=8)  # what a stopping service gives the steps in hand
_AFTER_A_FAULT_S = 1.0
_LONGEST_REST_S = 5.0
_SHORTEST_REST_S = 0.05  # a due job whose task or lane is in hand is not worth spinning for
_AWAY_S = 1.0  # between looks at a database that is away

log = logs.get("worker")


async def run_once(use: Resources) -> bool:
    """Do one due job; False when there was none."""
    claimed = await use.db.write(lambda connection: jobs.claim(connection, use.worker_id, use.now(), 1))
    for job in claimed:
        await perform(use, job)
    return bool(claimed)


async def run(use: Resources, *, grace: timedelta = _GRACE) -> None:
    """Do jobs as they fall due, until `use.stopping` is set; then finish what is in hand, for a bounded time."""
    wakeup = Wakeup()
    use.db.on_signal(wakeup.notify)
    in_hand: dict[asyncio.Task[None], Job] = {}
    async with heartbeats(use, in_hand), wakeup.notified_by(use.stopping):
        started = False
        while not use.stopping.is_set():
            wakeup.clear()
            try:
                started = started or await start(use)
                await wakeup.wait(await _round(use, in_hand, wakeup) if started else _AWAY_S)
            except Exception:
                log.exception("round_failed")  # and the next may do better; a worker that ended would do nothing
                await asyncio.sleep(_AFTER_A_FAULT_S)
        await _finish(use, set(in_hand), grace)


async def _round(use: Resources, in_hand: dict[asyncio.Task[None], Job], wakeup: Wakeup) -> float:
    """Begin what is due and there is room for; the seconds until the next look, 0 when something was begun."""
    try:
        due = await use.db.read(jobs.next_due)
        if due is None or due > use.now():
            return _until(use, due)
        claimed = await _claim(use, in_hand.values())
    except Unavailable:
        return _AWAY_S
    for job in claimed:
        task = asyncio.create_task(perform(use, job))
        in_hand[task] = job
        task.add_done_callback(in_hand.pop)
        task.add_done_callback(lambda _: wakeup.notify())
    return 0 if claimed else _SHORTEST_REST_S


def _until(use: Resources, due: datetime | None) -> float:
    if due is None:
        return _LONGEST_REST_S
    return min(_LONGEST_REST_S, max(_SHORTEST_REST_S, (due - use.now()) / timedelta(seconds=1)))


async def _finish(use: Resources, in_hand: set[asyncio.Task[None]], grace: timedelta) -> None:
    """Let the steps in hand end; what takes too long is stopped, and its job is runnable again."""
    if not in_hand:
        return
    _, late = await asyncio.wait(in_hand, timeout=grace.total_seconds())
    for task in late:
        task.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    if late:
        with suppress(Unavailable):  # then their leases end by themselves
            await use.db.write(lambda connection: jobs.release(connection, use.worker_id))


async def perform(use: Resources, job: Job) -> None:
    """Run the step of one job, and finish it, have it run again, or set it aside."""
    started = time.monotonic()
    known: dict[str, Any] = {"step": job.step, "task_id": job.task_id, "attempt": job.failures + 1}
    with (
        tracing.span(f"job {job.step}", SpanKind.CONSUMER, await _trace_of(use, job), **known) as span,
        logs.collecting() as facts,
    ):
        error = await _attempt(use, job)
        await _conclude(use, job, error)
        _tell(error, time.monotonic() - started, {**known, **facts}, span)


async def _attempt(use: Resources, job: Job) -> Exception | None:
    try:
        await STEPS[job.step](use, job.task_id)
    except Exception as caught:  # noqa: BLE001 - whatever a step raises, its job must not be lost
        return caught
    return None


def _tell(error: Exception | None, seconds: float, known: Mapping[str, Any], span: Span) -> None:
    """Log, count and mark how an attempt ended."""
    line = {**known, "ms": round(seconds * 1000)}
    outcome = "done" if error is None else "failed"
    metrics.job_attempts.labels(known["step"], outcome).observe(seconds)
    if error is None:
        log.info("job", outcome=outcome, **line)
        return
    code = error.code if isinstance(error, FluxhookError) else "internal_error"
    tracing.fail(span, code)
    if isinstance(error, FluxhookError):
        log.warning("job", outcome=outcome, code=code, **line)
    else:
        log.error("job", outcome=outcome, code=code, exc_info=error, **line)


async def _trace_of(use: Resources, job: Job) -> str | None:
    """The trace of the request that submitted the task, where there is one and anybody looks."""
    if not tracing.is_on():
        return None
    try:
        task = await use.db.read(lambda connection: tasks.get(connection, job.task_id))
    except Unavailable:
        return None
    return None if task is None else task.traceparent


async def _conclude(use: Resources, job: Job, error: Exception | None) -> None:
    """Record how a job ended."""
    await write_until_available(use.db, lambda connection: _record_end(connection, use.now(), job, error))


def _record_end(connection: Connection, now: datetime, job: Job, error: Exception | None) -> None:
    if error is None:
        jobs.finish(connection, job)
    elif job.failures + 1 >= _MAX_FAILURES and not _passes(error):
        jobs.dead_letter(connection, job, type(error).__name__)
    else:
        wait = STEP_FAILED.wait(job.failures + 1)
        jobs.retry(connection, job, now + wait + ids.jitter(wait / 4), type(error).__name__)


def _passes(error: Exception) -> bool:
    """Whether this ends by itself, as an outage does: then trying goes on for as long as it lasts."""
    return isinstance(error, FluxhookError) and error.retryable


async def start(use: Resources) -> bool:
    """Make runnable what was left running, and see that the sweeper sweeps; False while the database is away.

    While nobody was here callbacks may have been missed: the provider is asked about every task that it has.
    """

    def leave(connection: Connection) -> None:
        now = use.now()
        jobs.release(connection, use.worker_id)
        submitted = tasks.ids_in(connection, Status.SUBMITTED)
        jobs.enqueue(connection, [(Step.RECONCILE, task_id, now) for task_id in sorted(submitted)])
        jobs.enqueue(connection, [(Step.SWEEP, NO_TASK, now)])

    try:
        await use.db.write(leave)
    except Unavailable:
        return False
    return True


async def _claim(use: Resources, in_hand: Collection[Job]) -> list[Job]:
    """Due jobs, as many of each lane as it has room for."""
    busy = Counter(job.step for job in in_hand)
    rooms = [(lane, room - sum(busy[step] for step in lane)) for lane, room in LANES]

    def take(connection: Connection) -> list[Job]:
        now = use.now()
        claims = (jobs.claim(connection, use.worker_id, now, room, lane) for lane, room in rooms if room > 0)
        return [job for claimed in claims for job in claimed]

    # A heart that stood still lets our own jobs look lost.
    return [job for job in await use.db.write(take) if job not in in_hand]
