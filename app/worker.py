"""Run the jobs that the steps leave: which step a job means, and what becomes of one that fails."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from functools import partial

from app import ids, jobs, logs
from app.collect import collect
from app.dispatch import dispatch
from app.errors import FluxhookError, Unavailable
from app.jobs import Job, Step
from app.reconcile import reconcile
from app.record import Connection
from app.resources import Resources
from app.retry import STEP_FAILED

STEPS: Mapping[Step, Callable[[Resources, str], Awaitable[None]]] = {
    Step.DISPATCH: dispatch,
    Step.RECONCILE: reconcile,
    Step.COLLECT: collect,
}

CONCURRENCY = 32  # 24 tasks in flight at the provider, and room to poll and collect beside them
_MAX_FAILURES = 10
_GRACE_S = 10.0  # what a stopping service gives the steps in hand
_LONGEST_SLEEP_S = 5.0
_SHORTEST_SLEEP_S = 0.05  # a due job whose task is in hand is not worth spinning for

log = logs.get("worker")


async def run_once(use: Resources) -> bool:
    """Do one due job; False when there was none."""
    claimed = await use.db.write(lambda connection: jobs.claim(connection, use.now(), 1))
    for job in claimed:
        await perform(use, job)
    return bool(claimed)


async def run(use: Resources, stopping: asyncio.Event) -> None:
    """Do jobs as they fall due, until `stopping` is set; then finish what is in hand, for a bounded time."""
    loop, wake = asyncio.get_running_loop(), asyncio.Event()
    use.db.on_signal(partial(_wake, loop, wake))
    in_hand: set[asyncio.Task[None]] = set()
    released = False
    while not stopping.is_set():
        wake.clear()
        released = released or await _released(use)
        for job in await _claim(use, CONCURRENCY - len(in_hand) if released else 0):
            task = asyncio.create_task(perform(use, job))
            in_hand.add(task)
            task.add_done_callback(in_hand.discard)
            task.add_done_callback(lambda _: wake.set())
        await _sleep(use, stopping, wake)
    if in_hand:
        _, late = await asyncio.wait(in_hand, timeout=_GRACE_S)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)


async def perform(use: Resources, job: Job) -> None:
    """Run the step of one job, and finish it, have it run again, or set it aside."""
    started = time.monotonic()
    error: Exception | None = None
    try:
        await STEPS[job.step](use, job.task_id)
    except Exception as caught:  # noqa: BLE001 - whatever a step raises, its job must not be lost
        error = caught
    await _conclude(use, job, error)
    line = {"step": job.step, "task_id": job.task_id, "ms": round((time.monotonic() - started) * 1000)}
    if error is None:
        log.info("job", outcome="done", **line)
    elif isinstance(error, FluxhookError):
        log.warning("job", outcome="failed", code=error.code, **line)
    else:
        log.error("job", outcome="failed", code="internal_error", exc_info=error, **line)


async def _conclude(use: Resources, job: Job, error: Exception | None) -> None:
    """Record how a job ended. While the database is away there is nothing else to do than to wait for it."""
    while True:
        try:
            await use.db.write(lambda connection: _record_end(connection, use.now(), job, error))
        except Unavailable:
            await asyncio.sleep(1)
        else:
            return


def _record_end(connection: Connection, now: datetime, job: Job, error: Exception | None) -> None:
    if error is None:
        jobs.finish(connection, job)
    elif job.failures + 1 >= _MAX_FAILURES and not _passes(error):
        jobs.hold(connection, job, type(error).__name__)
    else:
        wait = STEP_FAILED.wait(job.failures + 1)
        jobs.retry(connection, job, now + wait + ids.jitter(wait / 4), type(error).__name__)


def _passes(error: Exception) -> bool:
    """Whether this ends by itself, as an outage does: then trying goes on for as long as it lasts."""
    return isinstance(error, FluxhookError) and error.retryable


def _wake(loop: asyncio.AbstractEventLoop, wake: asyncio.Event) -> None:
    loop.call_soon_threadsafe(wake.set)


async def _released(use: Resources) -> bool:
    """Make runnable what the last process left running; False while the database is away."""
    try:
        await use.db.write(jobs.release_all)
    except Unavailable:
        return False
    return True


async def _claim(use: Resources, room: int) -> list[Job]:
    if room <= 0:
        return []
    try:
        due = await use.db.read(jobs.next_due)
        if due is None or due > use.now():
            return []
        return await use.db.write(lambda connection: jobs.claim(connection, use.now(), room))
    except Unavailable:
        return []


async def _sleep(use: Resources, stopping: asyncio.Event, wake: asyncio.Event) -> None:
    """Until the next job is due, one is left, one ends, or the service stops."""
    waits = [asyncio.create_task(stopping.wait()), asyncio.create_task(wake.wait())]
    try:
        await asyncio.wait(waits, timeout=await _until_next(use), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


async def _until_next(use: Resources) -> float:
    try:
        due = await use.db.read(jobs.next_due)
    except Unavailable:
        return 1.0
    if due is None:
        return _LONGEST_SLEEP_S
    return min(_LONGEST_SLEEP_S, max(_SHORTEST_SLEEP_S, (due - use.now()) / timedelta(seconds=1)))
