"""The job engine on PostgreSQL, for any number of workers: PgQueuer's table and statements, in our transactions.

It adds what the contract requires beyond PgQueuer. A job that is enqueued while it runs is recorded on the running job
(`again`), which then runs once more. A waiting job can be made earlier. A worker that has lost its lease cannot end the
job. A job falls due by the clock of the database.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

from pgqueuer.adapters.persistence.qb import QueryQueueBuilder
from pgqueuer.domain.types import QueueEntrypoint, QueueManagerId
from sqlalchemy import Connection

from app.db.engine.commit_hooks import notify_after_commit
from app.jobs import postgres_statements as sql
from app.jobs.contract import LEASE, Backlog, DeadLetter, Job, JobState, Lane, NewJob, PlannedJob, Step
from app.jobs.pgqueuer_schema import SETTINGS

_STATEMENTS = QueryQueueBuilder(SETTINGS)
_PRIORITY_ZERO = datetime(2020, 1, 1, tzinfo=UTC)  # a priority is this minus the job's time, in seconds; until 2088

_STATES: Mapping[str, JobState] = {"queued": "waiting", "picked": "running", "failed": "held"}


def enqueue(
    connection: Connection, new_jobs: Sequence[NewJob], reserved: Collection[NewJob] = (), holder: str = ""
) -> list[Job]:
    jobs = sorted(new_jobs)
    rows = _run(
        connection,
        sql.ENQUEUE,
        [_key(job.step, job.task_id) for job in jobs],
        [job.step.value for job in jobs],
        [job.task_id for job in jobs],
        [job.run_at for job in jobs],
        int(_PRIORITY_ZERO.timestamp()),
        [job in reserved for job in jobs],
        holder or None,
    )
    return [Job(row["id"], Step(row["entrypoint"]), row["task_id"], 0, holder) for row in rows if row["claimed"]]


def drop(connection: Connection, step: Step, task_ids: Collection[str]) -> None:
    _run(connection, sql.DROP, [_key(step, task_id) for task_id in task_ids])


def next_due(connection: Connection) -> datetime | None:
    due: datetime | None = _run(connection, sql.NEXT_DUE, [step.value for step in Step], LEASE)[0]["least"]
    return due


def claim(
    connection: Connection,
    holder: str,
    now: datetime,  # noqa: ARG001 - the clock of the database decides
    lanes: Sequence[Lane],
) -> list[Job]:
    # PgQueuer reads jobs by priority, the due ones first. With a limit above their number it would also read all jobs
    # that are not due yet.
    limits = {step: lane.limit for lane in lanes for step in lane.steps}
    counts = _run(connection, sql.COUNT_DUE, list(limits), list(limits.values()), LEASE)
    due = {row["name"]: int(row["due"]) for row in counts}
    claimed = []
    for lane in lanes:
        count = min(sum(due[step] for step in lane.steps), lane.limit)
        if count:
            claimed += _claim(connection, holder, count, lane.steps)
    return claimed


def _claim(connection: Connection, holder: str, count: int, steps: Collection[Step]) -> list[Job]:
    query = _STATEMENTS.build_dequeue_query(
        batch_size=count,
        entrypoints=[QueueEntrypoint(step) for step in steps],
        concurrency_limits=[0 for _ in steps],
        queue_manager_id=cast("QueueManagerId", holder),  # the driver reads a UUID from text
        global_concurrency_limit=None,
        heartbeat_timeout=LEASE,
    )
    return [
        Job(row["id"], Step(row["entrypoint"]), row["payload"].decode(), row["attempts"], holder)
        for row in _run(connection, query.sql, *query.args)
    ]


def heartbeat(connection: Connection, running: Collection[Job]) -> list[Job]:
    renewed = {row["id"] for row in _run(connection, sql.HEARTBEAT, [job.id for job in running])}
    return [job for job in running if job.id not in renewed]


def heartbeat_of_locked(connection: Connection, job: Job) -> None:
    _run(connection, sql.HEARTBEAT_OF_LOCKED, job.id)


def finish(connection: Connection, job: Job) -> None:
    if _run(connection, sql.FINISH, job.id, job.holder):
        return
    headers = _lock_own(connection, job)
    if headers is not None:
        _put_back(connection, job, datetime.fromisoformat(headers["again"]), failures=0, error=None)
        notify_after_commit(connection)


def retry(connection: Connection, job: Job, run_at: datetime, error: str) -> None:
    headers = _lock_own(connection, job)
    if headers is not None:
        again = datetime.fromisoformat(headers["again"]) if "again" in headers else run_at
        _put_back(connection, job, min(run_at, again), failures=job.failures + 1, error=error)
    notify_after_commit(connection)


def dead_letter(connection: Connection, job: Job, error: str) -> None:
    headers = _lock_own(connection, job)
    if headers is None:
        return
    _run(connection, _STATEMENTS.build_log_job_query(), [job.id], ["failed"], [None])
    _run(connection, sql.SET_FAILURE, job.id, job.failures + 1, json.dumps({"error": error}))
    if "again" in headers:
        enqueue(connection, [NewJob(job.step, job.task_id, datetime.fromisoformat(headers["again"]))])
        notify_after_commit(connection)


def release(connection: Connection, holder: str, keep: Collection[int]) -> None:
    _run(connection, sql.RELEASE, holder, list(keep))


def dead_letters(connection: Connection, limit: int) -> list[DeadLetter]:
    return [
        DeadLetter(
            row["id"], Step(row["entrypoint"]), row["task_id"], row["attempts"], (row["headers"] or {}).get("error")
        )
        for row in _run(connection, sql.DEAD_LETTERS, limit)
    ]


def count_dead_letters(connection: Connection) -> int:
    (row,) = _run(connection, sql.COUNT_DEAD_LETTERS)
    return int(row["count"])


def requeue(connection: Connection, ids: Collection[int], now: datetime) -> int:
    rows = _run(connection, sql.TAKE_DEAD_LETTERS, list(ids))
    if rows:
        enqueue(connection, [NewJob(Step(row["entrypoint"]), row["task_id"], now) for row in rows])
        notify_after_commit(connection)
    return len(rows)


def scheduled(connection: Connection, step: Step, task_ids: Collection[str]) -> set[str]:
    keys = {_key(step, task_id): task_id for task_id in task_ids}
    return {keys[row["dedupe_key"]] for row in _run(connection, sql.SCHEDULED, list(keys))}


def planned(connection: Connection, task_id: str, steps: Collection[Step]) -> list[PlannedJob]:
    keys = [_key(step, task_id) for step in steps]
    return [
        PlannedJob(Step(row["entrypoint"]), row["execute_after"], _STATES[row["status"]], row["attempts"])
        for row in _run(connection, sql.PLANNED, keys)
    ]


def backlogs(connection: Connection, now: datetime) -> dict[Step, Backlog]:
    rows = _run(connection, sql.BACKLOGS, now)
    by_step = {Step(row["entrypoint"]): Backlog(row["waiting"], row["due"], row["oldest_due"]) for row in rows}
    return {step: by_step.get(step, Backlog()) for step in Step}


def overdue(connection: Connection, step: Step, now: datetime) -> bool:
    (row,) = _run(connection, sql.OVERDUE, step.value, now)
    return any(row.values())


def prune(connection: Connection, before: datetime) -> None:
    _run(connection, sql.PRUNE, before)


def _key(step: Step, task_id: str) -> str:
    return f"{step}:{task_id}"


def _lock_own(connection: Connection, job: Job) -> Mapping[str, Any] | None:
    """Lock the job and return its headers, or None if its holder has lost the lease."""
    rows = _run(connection, sql.LOCK_OWN, job.id, job.holder)
    return (rows[0]["headers"] or {}) if rows else None


def _put_back(connection: Connection, job: Job, run_at: datetime, *, failures: int, error: str | None) -> None:
    headers = None if error is None else json.dumps({"error": error})
    _run(connection, sql.PUT_BACK, job.id, run_at, failures, headers, int(_PRIORITY_ZERO.timestamp()), job.task_id)


def _run(connection: Connection, statement: str, *args: object) -> list[dict[str, Any]]:
    result = connection.exec_driver_sql(statement, args)
    return [dict(row) for row in result.mappings()] if result.returns_rows else []
