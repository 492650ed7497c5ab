"""A job that takes longer than its step allows hangs: its lease is not renewed, and its place is free."""

import asyncio

from structlog.testing import capture_logs

from app.jobs import Job, Lane, Step
from app.worker.loop import LANES
from app.worker.room import Room
from app.worker.running_jobs import LONGEST, RunningJobs
from tests.rows import WORKER


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def job(number: int, step: Step) -> Job:
    return Job(number, step, f"task_{number}", 0, WORKER)


async def test_a_job_hangs_once_it_takes_longer_than_its_step_allows() -> None:
    clock, end = Clock(), asyncio.Event()
    room = Room([Lane(steps, limit) for steps, limit in LANES])
    running = RunningJobs(room, clock)
    running.start(job(1, Step.COLLECT), end.wait())
    clock.now = LONGEST[Step.COLLECT].total_seconds() - 1
    running.start(job(2, Step.COLLECT), end.wait())
    before = running.in_time()
    clock.now += 2
    with capture_logs() as lines:
        after = [*running.in_time(), *running.in_time()]
    tasks = running.tasks
    end.set()
    await asyncio.wait(tasks)

    assert [one.id for one in before] == [1, 2]
    assert [one.id for one in after] == [2, 2]
    assert [(line["event"], line["task_id"]) for line in lines] == [("job_hangs", "task_1")]
    assert (len(tasks), running.tasks) == (2, set())


async def test_every_step_has_a_longest_time() -> None:
    assert LONGEST.keys() == {step for lane, _ in LANES for step in lane}
