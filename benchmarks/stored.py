"""Checks that acknowledged callbacks are stored: one piece of evidence, the task moved, and its next job."""

from collections.abc import Sequence

from sqlalchemy import and_, func, or_, select

from app import jobs
from app.db import Connection
from app.db.engine.database import Database
from app.db.tables.attempts import attempts
from app.db.tables.evidence import evidence
from app.db.tables.tasks import tasks
from app.jobs import Step
from app.rules.task import Effect, Status, Witness
from app.security.verify import Verdict
from benchmarks.seed import Callback

_AT_ONCE = 1000


async def unstored(database: Database, acknowledged: Sequence[Callback]) -> int:
    """Count the acknowledged callbacks that did not have exactly one effect."""
    unique = list({callback.attempt_id: callback for callback in acknowledged}.values())
    missing = 0
    for begin in range(0, len(unique), _AT_ONCE):
        batch = unique[begin : begin + _AT_ONCE]
        missing += len(batch) - await database.read(lambda connection, batch=batch: _kept(connection, batch))  # type: ignore[misc]
    return missing


def forgeries(connection: Connection) -> int:
    """Count the stored callbacks with a wrong signature; each copy counts."""
    query = select(func.coalesce(func.sum(evidence.c.copies), 0)).where(evidence.c.verdict == Verdict.FORGED)
    return int(connection.execute(query).scalar_one())


def _kept(connection: Connection, batch: Sequence[Callback]) -> int:
    """Count those stored once as evidence that moved the task, as it should, and with the next job of the task.

    The task of a moderated result is failed, and has none.
    """
    ready = and_(tasks.c.status == Status.READY, tasks.c.sample_url.is_not(None))
    query = (
        select(attempts.c.id, attempts.c.task_id, tasks.c.status)
        .join(tasks, tasks.c.id == attempts.c.task_id)
        .join(evidence, evidence.c.attempt_id == attempts.c.id)
        .where(
            attempts.c.id.in_([callback.attempt_id for callback in batch]),
            or_(ready, tasks.c.status == Status.FAILED),
            evidence.c.witness == Witness.CALLBACK,
            evidence.c.verdict == Verdict.SIGNED,
            evidence.c.effect == Effect.MOVED,
        )
        .group_by(attempts.c.id, attempts.c.task_id, tasks.c.status)
        .having(func.count() == 1)
    )
    rows = connection.execute(query).all()
    failed = {row.task_id for row in rows if row.status == Status.FAILED}
    settled = {row.task_id for row in rows} - failed
    pictures = [callback.task_id for callback in batch if not callback.is_moderated]
    moderated = {callback.task_id for callback in batch if callback.is_moderated}
    return len(settled & jobs.scheduled(connection, Step.COLLECT, pictures)) + len(failed & moderated)
