"""A snapshot of the database, for proofs that compare all of it."""

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias

from sqlalchemy import Connection, select

from app.db.tables import provider_accounts, slots
from app.db.tables.attempts import attempts
from app.db.tables.evidence import evidence
from app.db.tables.provider_accounts import Account
from app.db.tables.results import results
from app.db.tables.tasks import Task, task_of, tasks
from app.jobs import Step
from app.rules.task import Effect
from tests.interleaving import LIMITS
from tests.rows import stored_jobs

Job: TypeAlias = tuple[Step, str, str, datetime]
EvidenceKey: TypeAlias = tuple[str, str, str, str]  # attempt, witness, verdict, digest


@dataclass(frozen=True)
class Snapshot:
    """The state of the database at one moment."""

    tasks: list[Task]
    evidence: Counter[EvidenceKey]  # copies
    effects: dict[EvidenceKey, Effect]
    jobs: list[Job]
    slots: dict[str, str]  # model by task
    costs: Counter[str]  # by task, over its attempts
    stored: set[str]
    account: Account
    is_probing: bool  # a task was sent after the account's last pause, and the next ones wait for its answer

    def has_room(self, model: str, now: datetime) -> bool:
        in_flight = Counter(self.slots.values())
        return in_flight.total() < self.account.allowed(now) and in_flight[model] < LIMITS.get(model, LIMITS["account"])


def take_snapshot(connection: Connection) -> Snapshot:
    """Take a snapshot."""
    copies: Counter[EvidenceKey] = Counter()
    effects: dict[EvidenceKey, Effect] = {}
    columns = evidence.c
    for row in connection.execute(
        select(columns.attempt_id, columns.witness, columns.verdict, columns.digest, columns.copies, columns.effect)
    ):
        key = (row.submission_id, row.witness, row.verdict, row.digest)
        copies[key], effects[key] = row.copies, Effect(row.effect)
    costs: Counter[Any] = Counter()
    for task_id, cost in connection.execute(select(attempts.c.task_id, attempts.c.cost)):
        costs[task_id] += cost or 0
    account = provider_accounts.get(connection, "account")
    assert account is not None
    return Snapshot(
        tasks=[task_of(row) for row in connection.execute(select(tasks).order_by(tasks.c.id))],
        evidence=copies,
        effects=effects,
        jobs=[(job.step, job.task_id, job.state, job.run_at) for job in stored_jobs(connection)],
        slots={
            row.task_id: row.model for row in connection.execute(select(slots.slots.c.task_id, slots.slots.c.model))
        },
        costs=costs,
        stored=set(connection.execute(select(results.c.task_id)).scalars()),
        account=account,
        is_probing=account.probes and slots.has_probe(connection, account, datetime.min.replace(tzinfo=UTC)),
    )
