"""What an engine of jobs offers: the same words on SQLite and on PostgreSQL, kept by one conformance suite.

At most one job of a step waits for a task: asking again brings it forward, never puts it off. A job that is being
done does not count as waiting, so that what happens meanwhile is not lost; and no other job of that step and task
is claimed until it ends.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

from sqlalchemy import Connection

# A claim is a lease: whoever is not heard of for this long has died, and others do its jobs.
LEASE = timedelta(seconds=30)


class Step(StrEnum):
    DISPATCH = "dispatch"
    RECONCILE = "reconcile"
    COLLECT = "collect"
    ADMIT = "admit"
    NOTIFY = "notify"  # of an endpoint, not of a task
    SWEEP = "sweep"
    ERASE = "erase"


@dataclass(frozen=True, slots=True)
class Job:
    """A job in hand."""

    id: int
    step: Step
    task_id: str
    failures: int
    holder: str  # the worker that claimed it, a UUID


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A job that was set aside after its last try: a dead letter."""

    id: int
    step: Step
    task_id: str
    failures: int
    error: str | None  # the name of the last exception


@dataclass(frozen=True, slots=True)
class Backlog:
    """The waiting jobs of one step: how many there are, how many of them are due, and since when the oldest is."""

    waiting: int = 0
    due: int = 0
    oldest_due: datetime | None = None


class Engine(Protocol):
    """Each function joins the transaction of `connection`. Modules of functions keep this, not classes."""

    def enqueue(self, connection: Connection, wanted: Sequence[tuple[Step, str, datetime]]) -> None:
        """Leave jobs (step, task, not before). One that waits already is brought forward, never put off."""

    def next_due(self, connection: Connection) -> datetime | None:
        """When the next job may be claimed."""

    def claim(
        self, connection: Connection, holder: str, now: datetime, limit: int, steps: Collection[Step]
    ) -> list[Job]:
        """Take up to `limit` due jobs of these steps, those of a task whose link dies first before the others."""

    def heartbeat(self, connection: Connection, in_hand: Collection[Job]) -> None:
        """Say that these are still being done."""

    def finish(self, connection: Connection, job: Job) -> None:
        """Let go of a job that was done; one that lost its lease belongs to somebody else and stays."""

    def retry(self, connection: Connection, job: Job, run_at: datetime, error: str) -> None:
        """Have a failed job run again; where the same step waits already, the earlier time counts."""

    def dead_letter(self, connection: Connection, job: Job, error: str) -> None:
        """Set a job aside after its last try, for a person to look at."""

    def release(self, connection: Connection, holder: str) -> None:
        """Make runnable what this worker has in hand, without counting it as a failure."""

    def dead_letters(self, connection: Connection, limit: int) -> list[DeadLetter]:
        """The jobs that were set aside, oldest first."""

    def count_dead_letters(self, connection: Connection) -> int:
        """How many jobs were set aside."""

    def requeue(self, connection: Connection, ids: Collection[int], now: datetime) -> int:
        """Have held jobs run again, as if they had never failed; how many there were."""

    def scheduled(self, connection: Connection, step: Step, task_ids: Collection[str]) -> set[str]:
        """Which of these tasks have a job of this step, in whatever state."""

    def backlogs(self, connection: Connection, now: datetime) -> dict[Step, Backlog]:
        """How the jobs of every step stand."""

    def overdue(self, connection: Connection, step: Step, now: datetime) -> bool:
        """Whether any job of this step is due or being done."""

    def prune(self, connection: Connection, before: datetime) -> None:
        """Forget what the engine noted of jobs that ended before then."""
