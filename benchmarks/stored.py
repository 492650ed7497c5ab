"""Whether what was acknowledged is there: the evidence once, the task moved, and the job that follows from it."""

from collections.abc import Sequence

from sqlalchemy import func, select

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
    """How many of the callbacks that were answered with 200 left not exactly one effect."""
    once = list({each.submission_id: each for each in acknowledged}.values())
    missing = 0
    for begin in range(0, len(once), _AT_ONCE):
        group = once[begin : begin + _AT_ONCE]
        missing += len(group) - await database.read(lambda connection, group=group: _kept(connection, group))  # type: ignore[misc]
    return missing


def forgeries(connection: Connection) -> int:
    """How many callbacks with a wrong signature were written down; the same one again counts again."""
    query = select(func.coalesce(func.sum(evidence.c.copies), 0)).where(evidence.c.verdict == Verdict.FORGED)
    return int(connection.execute(query).scalar_one())


def _kept(connection: Connection, group: Sequence[Callback]) -> int:
    """How many of these are kept once as evidence that moved the task, which is ready and has its job."""
    query = (
        select(attempts.c.id, attempts.c.task_id)
        .join(tasks, tasks.c.id == attempts.c.task_id)
        .join(evidence, evidence.c.submission_id == attempts.c.id)
        .where(
            attempts.c.id.in_([each.submission_id for each in group]),
            tasks.c.status == Status.READY,
            tasks.c.sample_url.is_not(None),
            evidence.c.witness == Witness.CALLBACK,
            evidence.c.verdict == Verdict.SIGNED,
            evidence.c.effect == Effect.MOVED,
        )
        .group_by(attempts.c.id, attempts.c.task_id)
        .having(func.count() == 1)
    )
    settled = {row.task_id for row in connection.execute(query)}
    return len(settled & jobs.scheduled(connection, Step.COLLECT, [each.task_id for each in group]))
