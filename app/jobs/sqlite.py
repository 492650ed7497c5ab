"""The job engine on SQLite: a table from which one process claims.

There is one worker, so a claim needs no lease: its start makes jobs that were running claimable again (`release`).
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from operator import attrgetter

from sqlalchemy import (
    BigInteger,
    ClauseElement,
    Column,
    Connection,
    FromClause,
    Index,
    Integer,
    String,
    Table,
    Text,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    literal_column,
    select,
    union_all,
    update,
)
from sqlalchemy.dialects.sqlite import insert

from app.db.engine.bulk import Bulk
from app.db.engine.columns import Instant, metadata
from app.db.engine.commit_hooks import notify_after_commit
from app.db.tables.tasks import tasks
from app.jobs.contract import Backlog, DeadLetter, Job, Lane, NewJob, PlannedJob, Step

jobs = Table(
    "jobs",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("step", String(16), nullable=False),
    Column("task_id", String(48), nullable=False),
    Column("state", String(16), nullable=False),  # waiting, running, or held: a dead letter
    Column("run_at", Instant, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("last_error", Text),
    sqlite_autoincrement=True,
)
Index(
    "uq_jobs_waiting",
    jobs.c.step,
    jobs.c.task_id,
    unique=True,
    sqlite_where=jobs.c.state == "waiting",
    postgresql_where=jobs.c.state == "waiting",
)
Index("ix_jobs_state_run_at", jobs.c.state, jobs.c.run_at)


# A literal, because SQLite does not use a partial index for a parameter.
_IS_WAITING = jobs.c.state == literal_column("'waiting'")
_IS_NOT_WAITING = jobs.c.state.in_([literal_column("'running'"), literal_column("'held'")])


def enqueue(
    connection: Connection, new_jobs: Sequence[NewJob], reserved: Collection[NewJob] = (), holder: str = ""
) -> list[Job]:
    rows = [(str(job.step), job.task_id, job.run_at, 0, None) for job in reserved]
    inserted = _PUT_RUNNING.run(connection, rows) if rows else []
    claimed = [Job(job_id, Step(step), task_id, 0, holder) for job_id, step, task_id in inserted]
    running = {(job.step, job.task_id) for job in claimed}
    waiting = [job for job in new_jobs if (job.step, job.task_id) not in running]
    if waiting:
        _PUT.run(connection, [(str(job.step), job.task_id, job.run_at, 0, None) for job in waiting])
    return claimed


def _put(connection: Connection, rows: Sequence[tuple[str, str, datetime, int, str | None]]) -> None:
    """Add waiting jobs, as rows of `_NEW`. A job that waits already keeps the earlier time and the higher count of
    failures.
    """
    _PUT.run(connection, rows)
    notify_after_commit(connection)


def _statement(relation: FromClause, _dialect: str) -> ClauseElement:
    columns = [*(relation.c[name] for name in _NEW), literal_column("'waiting'")]
    # Without a WHERE, SQLite reads the ON of ON CONFLICT as the condition of a join.
    rows = select(*columns).where(literal_column("true"))
    statement = insert(jobs).from_select([*_NEW, "state"], rows)
    new = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=["step", "task_id"],
        index_where=_IS_WAITING,
        set_={
            "run_at": case((new.run_at < jobs.c.run_at, new.run_at), else_=jobs.c.run_at),
            "failures": case((new.failures > jobs.c.failures, new.failures), else_=jobs.c.failures),
            "last_error": func.coalesce(new.last_error, jobs.c.last_error),
        },
    )


def _insert_running(relation: FromClause, _dialect: str) -> ClauseElement:
    """Add running jobs. Returns those that neither waited nor ran before."""
    same = and_(jobs.c.step == relation.c.step, jobs.c.task_id == relation.c.task_id)
    columns = [*(relation.c[name] for name in _NEW), literal_column("'running'")]
    rows = select(*columns).where(
        ~exists().where(_IS_WAITING, same), ~exists().where(jobs.c.state == literal_column("'running'"), same)
    )
    return insert(jobs).from_select([*_NEW, "state"], rows).returning(jobs.c.id, jobs.c.step, jobs.c.task_id)


_NEW = ("step", "task_id", "run_at", "failures", "last_error")
_PUT = Bulk({name: jobs.c[name].type for name in _NEW}, _statement)
_PUT_RUNNING = Bulk(_PUT.columns, _insert_running)


# For one task each: with a list of them, SQLite searches all waiting jobs.
_DROP = delete(jobs).where(_IS_WAITING, jobs.c.step == bindparam("of_step"), jobs.c.task_id == bindparam("of_task"))


def drop(connection: Connection, step: Step, task_ids: Collection[str]) -> None:
    connection.execute(_DROP, [{"of_step": str(step), "of_task": task_id} for task_id in task_ids])


# Constants, because building a statement takes longer than running it.
_NEXT_DUE = select(jobs.c.run_at).where(jobs.c.state == "waiting").order_by(jobs.c.run_at).limit(1)


def next_due(connection: Connection) -> datetime | None:
    due: datetime | None = connection.execute(_NEXT_DUE).scalar_one_or_none()
    return due


_SOME = 50
_SOME_DUE = select(jobs.c.step).where(jobs.c.state == "waiting", jobs.c.run_at <= bindparam("now")).limit(_SOME)
_running = jobs.alias("running")
_IS_RUNNING = exists().where(
    _running.c.state == "running", _running.c.step == jobs.c.step, _running.c.task_id == jobs.c.task_id
)
_DUE = (
    select(jobs.c.id)
    .outerjoin(tasks, tasks.c.id == jobs.c.task_id)
    .where(
        jobs.c.state == "waiting",
        jobs.c.run_at <= bindparam("now"),
        jobs.c.step.in_(bindparam("steps", expanding=True)),
        ~_IS_RUNNING,
    )
    .order_by(func.coalesce(tasks.c.sample_expires_at, jobs.c.run_at), jobs.c.id)
    .limit(bindparam("max_jobs"))
)
_TAKE = (
    update(jobs)
    .where(jobs.c.id.in_(bindparam("ids", expanding=True)))
    .values(state="running")
    .returning(jobs.c.id, jobs.c.step, jobs.c.task_id, jobs.c.failures)
)


_FINISH = delete(jobs).where(jobs.c.id == bindparam("job_id"))


def claim(connection: Connection, holder: str, now: datetime, lanes: Sequence[Lane]) -> list[Job]:
    due = connection.execute(_SOME_DUE, {"now": now}).scalars().all()
    if len(due) < _SOME:  # these are all; usually they belong to one lane, and each lane takes a statement
        lanes = [lane for lane in lanes if not set(lane.steps).isdisjoint(due)]
    return [job for lane in lanes for job in _claim(connection, holder, now, lane)]


def _claim(connection: Connection, holder: str, now: datetime, lane: Lane) -> list[Job]:
    """Claim in the order that the contract describes; the jobs are returned in it too."""
    parameters = {"now": now, "steps": list(lane.steps), "max_jobs": lane.limit}
    order = list(connection.execute(_DUE, parameters).scalars())
    if not order:
        return []
    rows = connection.execute(_TAKE, {"ids": order})
    claimed = [Job(row.id, Step(row.step), row.task_id, row.failures, holder) for row in rows]
    return sorted(claimed, key=lambda job: order.index(job.id))


def heartbeat(connection: Connection, running: Collection[Job]) -> list[Job]:  # noqa: ARG001 - there is no other worker
    return []


def heartbeat_of_locked(connection: Connection, job: Job) -> None:
    """Do nothing: no job is ever locked."""


def finish(connection: Connection, job: Job) -> None:
    connection.execute(_FINISH, {"job_id": job.id})


def retry(connection: Connection, job: Job, run_at: datetime, error: str) -> None:
    finish(connection, job)
    _put(connection, [(job.step, job.task_id, run_at, job.failures + 1, error)])


def dead_letter(connection: Connection, job: Job, error: str) -> None:
    connection.execute(
        update(jobs).where(jobs.c.id == job.id).values(state="held", failures=job.failures + 1, last_error=error)
    )


def release(connection: Connection, holder: str, keep: Collection[int]) -> None:  # noqa: ARG001 - there is one worker
    columns = (jobs.c.step, jobs.c.task_id, jobs.c.run_at, jobs.c.failures, jobs.c.last_error)
    released = and_(jobs.c.state == "running", jobs.c.id.not_in(keep))
    rows = connection.execute(select(*columns).where(released)).all()
    connection.execute(delete(jobs).where(released))
    if rows:
        _put(connection, [tuple(row) for row in rows])


def dead_letters(connection: Connection, limit: int) -> list[DeadLetter]:
    query = select(jobs).where(jobs.c.state == "held").order_by(jobs.c.id).limit(limit)
    return [
        DeadLetter(row.id, Step(row.step), row.task_id, row.failures, row.last_error)
        for row in connection.execute(query)
    ]


def count_dead_letters(connection: Connection) -> int:
    return connection.execute(select(func.count()).where(jobs.c.state == "held")).scalar_one()


def requeue(connection: Connection, ids: Collection[int], now: datetime) -> int:
    rows = connection.execute(
        delete(jobs).where(jobs.c.state == "held", jobs.c.id.in_(ids)).returning(jobs.c.step, jobs.c.task_id)
    ).all()
    enqueue(connection, [NewJob(Step(row.step), row.task_id, now) for row in rows])
    return len(rows)


def scheduled(connection: Connection, step: Step, task_ids: Collection[str]) -> set[str]:
    query = select(jobs.c.task_id).where(jobs.c.step == step, jobs.c.task_id.in_(task_ids))
    return set(connection.execute(query).scalars())


def planned(connection: Connection, task_id: str, steps: Collection[Step]) -> list[PlannedJob]:
    columns = (jobs.c.step, jobs.c.run_at, jobs.c.state, jobs.c.failures, jobs.c.id)
    is_wanted = and_(jobs.c.task_id == task_id, jobs.c.step.in_(steps))
    # Two queries, each with an index: of the jobs that do not wait there are few.
    query = union_all(
        select(*columns).where(_IS_WAITING, is_wanted), select(*columns).where(_IS_NOT_WAITING, is_wanted)
    )
    found = [PlannedJob(Step(row.step), row.run_at, row.state, row.failures) for row in connection.execute(query)]
    return sorted(found, key=attrgetter("run_at"))


def backlogs(connection: Connection, now: datetime) -> dict[Step, Backlog]:
    is_due = jobs.c.run_at <= now
    query = (
        select(
            jobs.c.step,
            func.count(),
            func.count(case((is_due, 1))),
            func.min(case((is_due, jobs.c.run_at))),
        )
        .where(jobs.c.state == "waiting")
        .group_by(jobs.c.step)
    )
    by_step = {Step(step): Backlog(*counts) for step, *counts in connection.execute(query)}
    return {step: by_step.get(step, Backlog()) for step in Step}


def overdue(connection: Connection, step: Step, now: datetime) -> bool:
    query = select(jobs.c.id).where(jobs.c.step == step, jobs.c.state != "held", jobs.c.run_at <= now).limit(1)
    return connection.execute(query).one_or_none() is not None


def prune(connection: Connection, before: datetime) -> None:
    """Do nothing: a job that has ended leaves no row."""
