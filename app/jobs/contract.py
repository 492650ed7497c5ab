"""The interface of a job engine. One conformance suite tests it on SQLite and on PostgreSQL.

At most one job waits for a step of a task: enqueuing it again may make it earlier, never later. A running job does not
count as waiting, so a job that is enqueued meanwhile is not lost; it is not claimed before the running one ends.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal, NamedTuple, Protocol

from sqlalchemy import Connection

# A claim is a lease: if a worker sends no heartbeat for this long, other workers claim its jobs.
LEASE = timedelta(seconds=30)


class Step(StrEnum):
    DISPATCH = "dispatch"
    RECONCILE = "reconcile"
    COLLECT = "collect"
    ADMIT = "admit"
    NOTIFY = "notify"  # `task_id` is the id of an endpoint
    SWEEP = "sweep"
    ERASE = "erase"  # `task_id` is the id of an erased task, or of the erasure of an end user; or `removals`


class NewJob(NamedTuple):
    """A job to be enqueued: run `step` of a task, not before `run_at`."""

    step: Step
    task_id: str
    run_at: datetime


class Lane(NamedTuple):
    """Steps that share a limit for the number of jobs to claim."""

    steps: Collection[Step]
    limit: int


@dataclass(frozen=True, slots=True)
class Job:
    """A claimed job."""

    id: int
    step: Step
    task_id: str
    failures: int
    holder: str  # the worker that claimed it: a UUID


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A job that has used up its tries and waits for an operator.

    The API (`/v1/jobs/held`), the metrics (`jobs_held`) and the table of SQLite call its state `held`, the table of
    PgQueuer `failed`.
    """

    id: int
    step: Step
    task_id: str
    failures: int
    error: str | None  # the name of the last exception


JobState = Literal["waiting", "running", "held"]


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """A job of a task that has not ended; `held` is a dead letter."""

    step: Step
    run_at: datetime  # the earliest time of its start
    state: JobState
    failures: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """The waiting jobs of one step: their number, the number that is due, and the time at which the oldest fell due."""

    waiting: int = 0
    due: int = 0
    oldest_due: datetime | None = None


class Claimer(Protocol):
    """Claims jobs for a worker in the transactions of its process that enqueue them. Thread-safe."""

    @property
    def holder(self) -> str:
        """The worker that runs the claimed jobs."""

    def reserve(self, new_jobs: Collection[NewJob]) -> list[NewJob]:
        """Return those of the jobs that are due and for which the worker has room, and reserve it."""

    def give_back(self, new_jobs: Collection[NewJob]) -> None:
        """Free the room of jobs that were not claimed."""

    def claimed(self, claimed: Sequence["Job"]) -> None:
        """Note jobs that this transaction claims, so that no release takes them back."""

    def start(self, claimed: Sequence["Job"]) -> None:
        """Run these jobs: their claim is durable."""

    def withdraw(self, claimed: Sequence["Job"]) -> None:
        """Free the room of these jobs: their claim is rolled back, or nothing is known of its commit."""

    def is_soon(self, run_at: datetime) -> bool:
        """Whether the worker must be woken for a job at this time; later ones it finds by itself."""


def earliest(new_jobs: Sequence[NewJob]) -> dict[tuple[Step, str], datetime]:
    """Return the earliest time of each job in `new_jobs`, by step and task id."""
    times: dict[tuple[Step, str], datetime] = {}
    for step, task_id, run_at in new_jobs:
        times[step, task_id] = min(run_at, times.get((step, task_id), run_at))
    return times


class Engine(Protocol):
    """Implemented by modules, not classes. Each function runs in the transaction of `connection`."""

    def enqueue(
        self, connection: Connection, new_jobs: Sequence[NewJob], reserved: Collection[NewJob] = (), holder: str = ""
    ) -> list[Job]:
        """Add jobs. A job that waits already keeps the earlier of the two times.

        `new_jobs` has each step of a task at most once. Those of `reserved` are claimed at once for the worker
        `holder`, and returned, unless the same job waits or runs already.
        """

    def drop(self, connection: Connection, step: Step, task_ids: Collection[str]) -> None:
        """Delete the waiting jobs of this step of these tasks. Those that run, and dead letters, stay."""

    def next_due(self, connection: Connection) -> datetime | None:
        """Return the earliest time at which a job may be claimed, or None if there is no such time."""

    def claim(self, connection: Connection, holder: str, now: datetime, lanes: Sequence[Lane]) -> list[Job]:
        """Claim due jobs for each lane, up to its limit, earliest first. No step may be in two lanes.

        The time of a job is when the image link of its task expires or, without a link, when the job falls due.
        """

    def heartbeat(self, connection: Connection, running: Collection[Job]) -> list[Job]:
        """Renew the leases of running jobs. Return those that were left out, because other transactions lock them."""

    def heartbeat_of_locked(self, connection: Connection, job: Job) -> None:
        """Renew the lease of a job once no other transaction locks it. Nothing else may be locked in the meantime."""

    def finish(self, connection: Connection, job: Job) -> None:
        """End a job that has succeeded. If its lease is lost it belongs to another worker, and nothing changes."""

    def retry(self, connection: Connection, job: Job, run_at: datetime, error: str) -> None:
        """Run a failed job again at `run_at`, or earlier if the same job waits already. Counts the failure."""

    def dead_letter(self, connection: Connection, job: Job, error: str) -> None:
        """Make a job that failed its last try a dead letter."""

    def release(self, connection: Connection, holder: str, keep: Collection[int]) -> None:
        """Make the running jobs of this worker claimable again, without counting a failure, except those in `keep`."""

    def dead_letters(self, connection: Connection, limit: int) -> list[DeadLetter]:
        """Return up to `limit` dead letters, the oldest first."""

    def count_dead_letters(self, connection: Connection) -> int:
        """Return the number of dead letters."""

    def requeue(self, connection: Connection, ids: Collection[int], now: datetime) -> int:
        """Run these dead letters again, with no failures counted. Returns the number that existed."""

    def scheduled(self, connection: Connection, step: Step, task_ids: Collection[str]) -> set[str]:
        """Return those of the tasks that have a job of this step, in any state."""

    def planned(self, connection: Connection, task_id: str, steps: Collection[Step]) -> list[PlannedJob]:
        """Return the jobs of these steps that a task has, in any state, the earliest first."""

    def backlogs(self, connection: Connection, now: datetime) -> dict[Step, Backlog]:
        """Return the backlog of every step."""

    def overdue(self, connection: Connection, step: Step, now: datetime) -> bool:
        """Whether any job of this step is due or running."""

    def prune(self, connection: Connection, before: datetime) -> None:
        """Delete the engine's log of jobs that ended before this time."""
