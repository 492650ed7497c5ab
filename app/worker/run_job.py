"""Run the step of one job; then finish the job, schedule a retry, or make it a dead letter."""

import time
from collections.abc import Mapping
from typing import assert_never

from opentelemetry.trace import Span, SpanKind

from app import ids, jobs
from app.collect import collect
from app.db import Connection
from app.db.engine.database import write_until_available
from app.db.engine.fair_queue import JOBS, owner
from app.db.engine.long_work import long_work
from app.db.tables import tasks
from app.dispatch import dispatch
from app.errors import FluxhookError, Unavailable
from app.jobs import Job, JobEnd, Step
from app.notify import notify
from app.reconcile import reconcile
from app.resources import Connections, Policy, Resources
from app.rules.backoff import STEP_FAILED
from app.telemetry import logs, metrics, tracing
from app.transitions import erase
from app.transitions.admit import readmit
from app.worker.sweep import sweep

log = logs.get("worker")

_MAX_FAILURES = 10
_LONG = {Step.SWEEP, Step.ERASE}


async def run_job(use: Resources, job: Job) -> bool:
    """Run the step of one job; then finish the job, schedule a retry, or make it a dead letter.

    Return whether the job has finished; it may have been enqueued again.
    """
    owner.set(JOBS)
    started = time.monotonic()
    fields: dict[str, str | int] = {"step": job.step, "task_id": job.task_id, "attempt": job.failures + 1}
    with (
        tracing.span(f"job {job.step}", SpanKind.CONSUMER, await _traceparent_of(use, job), (), **fields) as span,
        logs.collecting() as facts,
        # Stated for each step: the commit of a sweep starts the jobs that it enqueues.
        long_work(is_long=job.step in _LONG),
    ):
        end = jobs.end_of(job)
        error = await _run_step(use, job, end)
        if error is not None or not end.is_recorded:
            await _conclude(use, job, end, error)
        _report(job.step, error, time.monotonic() - started, {**fields, **facts}, span)
    return end.is_recorded


async def _run_step(use: Resources, job: Job, end: JobEnd) -> Exception | None:
    """Run the step of a job, and return its error."""
    try:
        match job.step:
            case Step.DISPATCH:
                await dispatch(use, job.task_id, end)
            case Step.RECONCILE:
                await reconcile(use, job.task_id, end)
            case Step.COLLECT:
                await collect(use, job.task_id, end)
            case Step.ADMIT:
                await readmit(use, job.task_id)
            case Step.NOTIFY:
                await notify(use, job.task_id, end)
            case Step.SWEEP:
                await sweep(use)
            case Step.ERASE:
                await erase.run(use, job.task_id)
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


async def _traceparent_of(use: Connections, job: Job) -> str | None:
    """Return the traceparent of the request that submitted the task; None without one, or if tracing is off."""
    if not tracing.is_on():
        return None
    try:
        task = await use.db.read(tasks.get, job.task_id)
    except Unavailable:
        return None
    return None if task is None else task.traceparent


async def _conclude(use: Resources, job: Job, end: JobEnd, error: Exception | None) -> None:
    """Record the outcome of a job whose step has not recorded its end, or has failed."""
    if error is None:
        await write_until_available(use.db, end.after(_nothing))
    else:
        await write_until_available(use.db, _record_failure, use, job, error)


def _nothing(_connection: Connection) -> None:
    pass


def _record_failure(connection: Connection, use: Policy, job: Job, error: Exception) -> None:
    if job.failures + 1 >= _MAX_FAILURES and not _is_temporary(error):
        jobs.dead_letter(connection, job, type(error).__name__)
    else:
        wait = STEP_FAILED.wait(job.failures + 1)
        jobs.retry(connection, job, use.now() + ids.jittered(wait), type(error).__name__)


def _is_temporary(error: Exception) -> bool:
    """Whether the error passes by itself, as an outage does: the job is then retried without limit."""
    return isinstance(error, FluxhookError) and error.retryable
