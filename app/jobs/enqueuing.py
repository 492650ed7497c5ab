"""Enqueue jobs, and claim those at once for which the worker of this process has room.

Such a job needs no claim of its own, which would be a transaction and a search for what is due.
"""

from collections.abc import Sequence
from functools import partial
from typing import cast

from sqlalchemy import Connection

from app.db.engine.commit_hooks import after_commit, after_rollback, claimer_of, notify_after_commit
from app.jobs.contract import Claimer, Engine, NewJob, earliest


def enqueue(connection: Connection, new_jobs: Sequence[NewJob], engine: Engine) -> None:
    wanted = [NewJob(step, task_id, run_at) for (step, task_id), run_at in earliest(new_jobs).items()]
    if not wanted:
        return
    claimer = cast("Claimer | None", claimer_of(connection))
    if claimer is None:
        engine.enqueue(connection, wanted)
        notify_after_commit(connection)
        return
    reserved = claimer.reserve(wanted)
    try:
        claimed = engine.enqueue(connection, wanted, reserved, claimer.holder)
    except BaseException:
        claimer.give_back(reserved)
        raise
    if claimed:
        claimer.claimed(claimed)
        after_commit(connection, partial(claimer.start, claimed))
        after_rollback(connection, partial(claimer.withdraw, claimed))
    keys = {(job.step, job.task_id) for job in claimed}
    claimer.give_back([job for job in reserved if (job.step, job.task_id) not in keys])
    if any(claimer.is_soon(job.run_at) for job in wanted if (job.step, job.task_id) not in keys):
        notify_after_commit(connection)
