"""Jobs: "run step S of task T, not before time X". The task's row decides what is done; any job may run twice.

A job is enqueued in the transaction that makes it necessary, so one is never stored without the other. The dialect of
the connection selects the engine; `contract.py` documents the functions.
"""

from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import Connection

from app.jobs import enqueuing, sqlite
from app.jobs.contract import LEASE, Backlog, Claimer, DeadLetter, Engine, Job, Lane, NewJob, PlannedJob, Step
from app.jobs.job_end import NO_JOB, EndOf, JobEnd

__all__ = [
    "LEASE",
    "NO_JOB",
    "Backlog",
    "Claimer",
    "DeadLetter",
    "EndOf",
    "Job",
    "JobEnd",
    "Lane",
    "NewJob",
    "PlannedJob",
    "Step",
    "backlogs",
    "claim",
    "claim_for_lanes",
    "count_dead_letters",
    "dead_letter",
    "dead_letters",
    "drop",
    "end_of",
    "enqueue",
    "finish",
    "heartbeat",
    "heartbeat_of_locked",
    "next_due",
    "overdue",
    "planned",
    "prune",
    "release",
    "requeue",
    "retry",
    "scheduled",
]


def _engine(connection: Connection) -> Engine:
    if connection.dialect.name != "postgresql":
        return sqlite
    from app.jobs import postgres  # noqa: PLC0415 - PgQueuer takes a third of a second to load, and SQLite does not need it

    return postgres


def enqueue(connection: Connection, new_jobs: Sequence[NewJob]) -> None:
    enqueuing.enqueue(connection, new_jobs, _engine(connection))


def drop(connection: Connection, step: Step, task_ids: Collection[str]) -> None:
    if task_ids:
        _engine(connection).drop(connection, step, task_ids)


def next_due(connection: Connection) -> datetime | None:
    return _engine(connection).next_due(connection)


def claim(
    connection: Connection, holder: str, now: datetime, limit: int, steps: Collection[Step] = tuple(Step)
) -> list[Job]:
    return claim_for_lanes(connection, holder, now, [Lane(steps, limit)])


def claim_for_lanes(connection: Connection, holder: str, now: datetime, lanes: Sequence[Lane]) -> list[Job]:
    return _engine(connection).claim(connection, holder, now, lanes)


def end_of(job: Job) -> EndOf:
    """Return the end of this job, for its step."""
    return EndOf(job, _engine)


def heartbeat(connection: Connection, running: Collection[Job]) -> list[Job]:
    return _engine(connection).heartbeat(connection, running)


def heartbeat_of_locked(connection: Connection, job: Job) -> None:
    _engine(connection).heartbeat_of_locked(connection, job)


def finish(connection: Connection, job: Job) -> None:
    _engine(connection).finish(connection, job)


def retry(connection: Connection, job: Job, run_at: datetime, error: str) -> None:
    _engine(connection).retry(connection, job, run_at, error)


def dead_letter(connection: Connection, job: Job, error: str) -> None:
    _engine(connection).dead_letter(connection, job, error)


def release(connection: Connection, holder: str, keep: Collection[int] = ()) -> None:
    _engine(connection).release(connection, holder, keep)


def dead_letters(connection: Connection, limit: int = 1000) -> list[DeadLetter]:
    return _engine(connection).dead_letters(connection, limit)


def count_dead_letters(connection: Connection) -> int:
    return _engine(connection).count_dead_letters(connection)


def requeue(connection: Connection, ids: Collection[int], now: datetime) -> int:
    return _engine(connection).requeue(connection, ids, now)


def scheduled(connection: Connection, step: Step, task_ids: Collection[str]) -> set[str]:
    return _engine(connection).scheduled(connection, step, task_ids)


def planned(connection: Connection, task_id: str, steps: Collection[Step] = tuple(Step)) -> list[PlannedJob]:
    return _engine(connection).planned(connection, task_id, steps)


def backlogs(connection: Connection, now: datetime) -> dict[Step, Backlog]:
    return _engine(connection).backlogs(connection, now)


def overdue(connection: Connection, step: Step, now: datetime) -> bool:
    return _engine(connection).overdue(connection, step, now)


def prune(connection: Connection, before: datetime) -> None:
    _engine(connection).prune(connection, before)
