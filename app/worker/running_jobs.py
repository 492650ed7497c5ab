"""The jobs that a worker runs, and which of them take too long."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta

from app.jobs import Job, Step
from app.telemetry import logs
from app.worker.room import Room

# The longest time that a job of each step may take, with the limits of its requests and some margin. A job that takes
# longer hangs: its lease is no longer renewed, so another worker runs it again, as after a crash of this one.
LONGEST: Mapping[Step, timedelta] = {
    Step.DISPATCH: timedelta(minutes=5),
    Step.RECONCILE: timedelta(minutes=5),
    Step.COLLECT: timedelta(minutes=10),
    Step.NOTIFY: timedelta(minutes=5),
    Step.ADMIT: timedelta(minutes=5),
    Step.SWEEP: timedelta(minutes=30),
    Step.ERASE: timedelta(minutes=30),
}

log = logs.get("worker")


class RunningJobs:
    """The running jobs of one worker, which has taken their room. `monotonic` is its clock, in seconds."""

    def __init__(self, room: Room, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._room = room
        self._monotonic = monotonic
        self._started: dict[asyncio.Task[bool], tuple[Job, float]] = {}
        self._hanging: set[asyncio.Task[bool]] = set()

    def start(self, job: Job, run: Awaitable[bool]) -> None:
        """Run a job until it ends, in an asyncio task. `run` returns whether the end of the job is recorded."""

        async def run_and_remove() -> bool:
            try:
                return await run
            finally:
                del self._started[task]
                if task in self._hanging:
                    self._hanging.remove(task)
                else:
                    self._room.give(job.step)

        task = asyncio.create_task(run_and_remove())
        self._started[task] = (job, self._monotonic())

    def run_of(self, job: Job) -> asyncio.Task[bool] | None:
        """Return the run of this same job that has not ended, unless it hangs."""
        runs = (task for task, (known, _) in self._started.items() if known == job and task not in self._hanging)
        return next(runs, None)

    @property
    def tasks(self) -> set[asyncio.Task[bool]]:
        return set(self._started)

    @property
    def ids(self) -> set[int]:
        return {job.id for job, _ in self._started.values()}

    def in_time(self) -> list[Job]:
        """Return the jobs that do not hang. Their leases are renewed; those that hang lose their room."""
        now = self._monotonic()
        jobs = []
        for task, (job, started) in self._started.items():
            if now - started < LONGEST[job.step].total_seconds():
                jobs.append(job)
            elif task not in self._hanging:
                self._hanging.add(task)
                self._room.give(job.step)
                log.error("job_hangs", step=job.step, task_id=job.task_id, seconds=round(now - started))
        return jobs
