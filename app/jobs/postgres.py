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
from app.jobs.contract import LEASE, Backlog, DeadLetter, Job, NewJob, Step, earliest
from app.jobs.pgqueuer_schema import SETTINGS

_STATEMENTS = QueryQueueBuilder(SETTINGS)
_PRIORITY_ZERO = datetime(2020, 1, 1, tzinfo=UTC)  # a priority is this minus the job's time, in seconds; until 2088

# All statements contain the states as literals, because PgQueuer's indexes are partial.
# One statement, which writes each row once. PgQueuer's own enqueue also writes its log, which is not read here, and
# would need a second statement for the time. The rows are sorted by key, so that two transactions that enqueue the
# same jobs do not deadlock.
_ENQUEUE = """
INSERT INTO pgqueuer AS job (entrypoint, payload, dedupe_key, execute_after, priority, status)
SELECT new.step, convert_to(new.task_id, 'UTF8'), new.key, new.run_at, least(greatest($5 - extract(epoch FROM
    coalesce((SELECT sample_expires_at FROM tasks WHERE id = new.task_id), new.run_at)), -2147483648), 2147483647),
    'queued'
FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[]) AS new (key, step, task_id, run_at)
ON CONFLICT (dedupe_key) WHERE status IN ('queued', 'picked') AND dedupe_key IS NOT NULL DO UPDATE
SET execute_after = CASE job.status
        WHEN 'queued' THEN least(job.execute_after, excluded.execute_after) ELSE job.execute_after END,
    priority = greatest(job.priority, excluded.priority),
    headers = CASE job.status
        WHEN 'picked' THEN
            jsonb_build_object('again', least((job.headers ->> 'again')::timestamptz, excluded.execute_after))
        ELSE job.headers END
"""
_NEXT_DUE = """
SELECT least(
    (SELECT min(first.at) FROM unnest($1::text[]) AS step (name) CROSS JOIN LATERAL (
        SELECT execute_after AS at FROM pgqueuer WHERE entrypoint = step.name AND status = 'queued'
        ORDER BY execute_after LIMIT 1) AS first),
    (SELECT heartbeat + $2::interval FROM pgqueuer WHERE status = 'picked' ORDER BY heartbeat LIMIT 1))
"""
_COUNT_DUE = """
SELECT (SELECT count(*) FROM unnest($1::text[]) AS step (name) CROSS JOIN LATERAL (
        SELECT FROM pgqueuer WHERE entrypoint = step.name AND status = 'queued' AND execute_after < now()
        ORDER BY execute_after LIMIT $2) AS due)
    + (SELECT count(*) FROM (
        SELECT FROM pgqueuer WHERE status = 'picked' AND heartbeat < now() - $3::interval
        ORDER BY heartbeat LIMIT $2) AS lapsed)
    AS due
"""
# PgQueuer's own statement locks the rows in no certain order; this one locks them in the order of `enqueue`.
_HEARTBEAT = """
UPDATE pgqueuer SET heartbeat = now() WHERE id IN (SELECT id FROM pgqueuer WHERE id = ANY ($1::bigint[])
    ORDER BY dedupe_key COLLATE "C" FOR UPDATE)
"""
_LOCK_OWN = """
SELECT headers FROM pgqueuer WHERE id = $1 AND status = 'picked' AND queue_manager_id = $2 FOR UPDATE
"""
# Its priority is that of its new time: with the old one it would always come before all other jobs.
_PUT_BACK = """
UPDATE pgqueuer
SET status = 'queued', execute_after = $2, attempts = $3, headers = $4::jsonb, queue_manager_id = NULL, updated = now(),
    priority = least(greatest($5 - extract(epoch FROM coalesce(
        (SELECT sample_expires_at FROM tasks WHERE id = $6), $2)), -2147483648), 2147483647)
WHERE id = $1
"""
_SET_FAILURE = "UPDATE pgqueuer SET attempts = $2, headers = $3::jsonb WHERE id = $1"
_RELEASE = """
UPDATE pgqueuer
SET status = 'queued', headers = NULL, queue_manager_id = NULL, updated = now()
WHERE queue_manager_id = $1 AND status = 'picked'
"""
_DEAD_LETTERS = """
SELECT id, entrypoint, convert_from(payload, 'UTF8') AS task_id, attempts, headers
FROM pgqueuer WHERE status = 'failed' ORDER BY id LIMIT $1
"""
_COUNT_DEAD_LETTERS = "SELECT count(*) FROM pgqueuer WHERE status = 'failed'"
_TAKE_DEAD_LETTERS = """
DELETE FROM pgqueuer WHERE status = 'failed' AND id = ANY ($1::bigint[])
RETURNING entrypoint, convert_from(payload, 'UTF8') AS task_id
"""
_SCHEDULED = """
SELECT dedupe_key FROM pgqueuer WHERE status IN ('queued', 'picked') AND dedupe_key = ANY ($1::text[])
UNION SELECT dedupe_key FROM pgqueuer WHERE status = 'failed' AND dedupe_key = ANY ($1::text[])
"""
_BACKLOGS = """
SELECT entrypoint, count(*) AS waiting, count(*) FILTER (WHERE execute_after <= $1) AS due,
    min(execute_after) FILTER (WHERE execute_after <= $1) AS oldest_due
FROM pgqueuer WHERE status = 'queued' GROUP BY entrypoint
"""
_OVERDUE = """
SELECT EXISTS (SELECT FROM pgqueuer WHERE entrypoint = $1 AND status = 'queued' AND execute_after <= $2)
    OR EXISTS (SELECT FROM pgqueuer WHERE entrypoint = $1 AND status = 'picked')
"""
_PRUNE = "DELETE FROM pgqueuer_log WHERE created < $1"


def enqueue(connection: Connection, new_jobs: Sequence[NewJob]) -> None:
    rows = [NewJob(step, task_id, run_at) for (step, task_id), run_at in sorted(earliest(new_jobs).items())]
    if not rows:
        return
    _run(
        connection,
        _ENQUEUE,
        [_key(job.step, job.task_id) for job in rows],
        [job.step.value for job in rows],
        [job.task_id for job in rows],
        [job.run_at for job in rows],
        int(_PRIORITY_ZERO.timestamp()),
    )
    notify_after_commit(connection)


def next_due(connection: Connection) -> datetime | None:
    due: datetime | None = _run(connection, _NEXT_DUE, [step.value for step in Step], LEASE)[0]["least"]
    return due


def claim(
    connection: Connection,
    holder: str,
    now: datetime,  # noqa: ARG001 - the clock of the database decides
    limit: int,
    steps: Collection[Step] = tuple(Step),
) -> list[Job]:
    # PgQueuer reads jobs by priority, the due ones first. With a limit above their number it would also read all jobs
    # that are not due yet.
    due = _run(connection, _COUNT_DUE, list(steps), limit, LEASE)[0]["due"]
    if not due:
        return []
    query = _STATEMENTS.build_dequeue_query(
        batch_size=min(due, limit),
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


def heartbeat(connection: Connection, running: Collection[Job]) -> None:
    _run(connection, _HEARTBEAT, [job.id for job in running])


def finish(connection: Connection, job: Job) -> None:
    headers = _lock_own(connection, job)
    if headers is None:
        return
    if "again" in headers:
        _put_back(connection, job, datetime.fromisoformat(headers["again"]), failures=0, error=None)
    else:
        _end(connection, job, "successful")
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
    _end(connection, job, "failed")
    _run(connection, _SET_FAILURE, job.id, job.failures + 1, json.dumps({"error": error}))
    if "again" in headers:
        enqueue(connection, [NewJob(job.step, job.task_id, datetime.fromisoformat(headers["again"]))])


def release(connection: Connection, holder: str) -> None:
    _run(connection, _RELEASE, holder)


def dead_letters(connection: Connection, limit: int) -> list[DeadLetter]:
    return [
        DeadLetter(
            row["id"], Step(row["entrypoint"]), row["task_id"], row["attempts"], (row["headers"] or {}).get("error")
        )
        for row in _run(connection, _DEAD_LETTERS, limit)
    ]


def count_dead_letters(connection: Connection) -> int:
    (row,) = _run(connection, _COUNT_DEAD_LETTERS)
    return int(row["count"])


def requeue(connection: Connection, ids: Collection[int], now: datetime) -> int:
    rows = _run(connection, _TAKE_DEAD_LETTERS, list(ids))
    enqueue(connection, [NewJob(Step(row["entrypoint"]), row["task_id"], now) for row in rows])
    return len(rows)


def scheduled(connection: Connection, step: Step, task_ids: Collection[str]) -> set[str]:
    keys = {_key(step, task_id): task_id for task_id in task_ids}
    return {keys[row["dedupe_key"]] for row in _run(connection, _SCHEDULED, list(keys))}


def backlogs(connection: Connection, now: datetime) -> dict[Step, Backlog]:
    rows = _run(connection, _BACKLOGS, now)
    by_step = {Step(row["entrypoint"]): Backlog(row["waiting"], row["due"], row["oldest_due"]) for row in rows}
    return {step: by_step.get(step, Backlog()) for step in Step}


def overdue(connection: Connection, step: Step, now: datetime) -> bool:
    (row,) = _run(connection, _OVERDUE, step.value, now)
    return any(row.values())


def prune(connection: Connection, before: datetime) -> None:
    _run(connection, _PRUNE, before)


def _key(step: Step, task_id: str) -> str:
    return f"{step}:{task_id}"


def _lock_own(connection: Connection, job: Job) -> Mapping[str, Any] | None:
    """Lock the job and return its headers, or None if its holder has lost the lease."""
    rows = _run(connection, _LOCK_OWN, job.id, job.holder)
    return (rows[0]["headers"] or {}) if rows else None


def _put_back(connection: Connection, job: Job, run_at: datetime, *, failures: int, error: str | None) -> None:
    headers = None if error is None else json.dumps({"error": error})
    _run(connection, _PUT_BACK, job.id, run_at, failures, headers, int(_PRIORITY_ZERO.timestamp()), job.task_id)


def _end(connection: Connection, job: Job, status: str) -> None:
    _run(connection, _STATEMENTS.build_log_job_query(), [job.id], [status], [None])


def _run(connection: Connection, statement: str, *args: object) -> list[dict[str, Any]]:
    result = connection.exec_driver_sql(statement, args)
    return [dict(row) for row in result.mappings()] if result.returns_rows else []
