import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from structlog.testing import capture_logs

from app import jobs
from app.db.engine.database import Database
from app.db.engine.long_work import long_work, takes_long
from app.errors import Unavailable
from app.jobs import Job, NewJob, Step
from app.provider import ProviderResponse, SubmitRequest
from app.resources import Resources
from app.rules.task import Report, Said
from app.store import FolderStore
from app.twin import Faults
from app.worker import loop, run_job, sweep
from app.worker.heartbeat import Rounds
from tests.calling import Scripted, answering, done, small, submitted
from tests.databases import OneByOne
from tests.pictures import in_base64, picture
from tests.rows import START, claim, put_account
from tests.sockets import until
from tests.world import World, with_provider

T = TypeVar("T")
TAKEN = ProviderResponse(Report(Said.PENDING, "p1"), 200, {}, b"{}")


@asynccontextmanager
async def running(use: Resources, grace: float = 20) -> AsyncGenerator[asyncio.Event]:
    """A running worker, which is stopped at the end of the block, or earlier by its event."""
    mine = replace(use, stopping=asyncio.Event())
    async with asyncio.timeout(120), asyncio.TaskGroup() as group:
        group.create_task(loop.run(mine, grace=timedelta(seconds=grace)))
        yield mine.stopping
        mine.stopping.set()


async def states(world: World, task_ids: Sequence[str]) -> set[str]:
    return {(await world.task(task_id))["status"] for task_id in task_ids}


async def test_run_once_runs_one_job_until_none_is_due(world: World) -> None:
    small(world)
    await world.post()
    await world.post()

    assert [await loop.run_once(world.use) for _ in range(3)] == [True, True, False]
    assert world.ledger()["accepted"] == 2


class Noting(OneByOne):
    """A database that notes which writes are made as long work."""

    def __init__(self, inner: Database) -> None:
        self._inner = inner
        self.noted: set[tuple[str, bool]] = set()
        self.dialect, self.read = inner.dialect, inner.read
        self.on_jobs, self.on_events = inner.on_jobs, inner.on_events

    async def write(self, work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        self.noted.add((work.__module__, takes_long()))
        return await self._inner.write(work, *args, **kwargs)


async def test_a_step_is_no_long_work_because_its_job_was_started_by_a_sweep(world: World) -> None:
    small(world)
    await world.post()
    noting = Noting(world.use.db)
    with long_work():  # in which the commit of a sweep starts the jobs that it enqueues
        await loop.run_once(replace(world.use, db=noting))

    assert {is_long for module, is_long in noting.noted if module == "app.dispatch"} == {False}


class LostClaim(OneByOne):
    """A database that commits the first claim of a job and loses the answer."""

    def __init__(self, inner: Database) -> None:
        self._inner = inner
        self.lost: list[Job] = []
        self.dialect, self.read = inner.dialect, inner.read
        self.on_jobs, self.on_events = inner.on_jobs, inner.on_events

    async def write(self, work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        result = await self._inner.write(work, *args, **kwargs)
        if isinstance(result, tuple) and isinstance(result[0], list) and not self.lost:
            self.lost = [job for job in result[0] if isinstance(job, Job) and job.step is Step.DISPATCH]
            if self.lost:
                raise Unavailable("the database cannot be reached at the moment")
        return result


async def test_jobs_whose_claim_got_no_answer_are_run_without_waiting_for_their_lease(each_world: World) -> None:
    small(each_world)
    task_id = await each_world.post()
    database = LostClaim(each_world.use.db)

    async def is_submitted() -> bool:
        return await states(each_world, [task_id]) == {"submitted"}

    async with running(replace(each_world.use, db=database)):
        await until(is_submitted)

    assert [job.task_id for job in database.lost] == [task_id]
    assert each_world.ledger()["accepted"] == 1


class LateAnswer(OneByOne):
    """A database in which a job is enqueued again while it runs, and that tells of its end late."""

    def __init__(self, inner: Database) -> None:
        self._inner = inner
        self.ended, self.may_answer = asyncio.Event(), asyncio.Event()
        self.dialect, self.read = inner.dialect, inner.read
        self.on_jobs, self.on_events = inner.on_jobs, inner.on_events

    async def write(self, work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        is_end = work.__name__ == run_job._nothing.__name__
        if is_end and not self.ended.is_set():
            await self._inner.write(jobs.enqueue, [NewJob(Step.RECONCILE, "task_1", START)])
        result = await self._inner.write(work, *args, **kwargs)
        if is_end:
            self.ended.set()
            await self.may_answer.wait()
        return result


async def test_a_job_that_is_claimed_again_before_its_run_returns_runs_again(each_world: World) -> None:
    database = LateAnswer(each_world.use.db)
    use = replace(each_world.use, db=database)
    await database.write(jobs.enqueue, [NewJob(Step.RECONCILE, "task_1", START)])
    worker = loop.Worker(use, Rounds())
    with capture_logs() as lines:
        await worker.round()
        await database.ended.wait()
        await worker.round()
        database.may_answer.set()
        await asyncio.wait(worker.running.tasks)

    assert [line["step"] for line in lines if line["event"] == "job"] == ["reconcile", "reconcile"]
    assert await each_world.use.db.read(jobs.next_due) is None


class BrokenStore(FolderStore):
    """A store that fails with an unexpected error."""

    def read(self, key: str, start: int, end: int) -> AsyncGenerator[bytes]:
        raise RuntimeError(f"{key} {start} {end}")


async def test_a_failing_job_is_retried_and_becomes_a_dead_letter_after_ten_failures(
    world: World, tmp_path: Path
) -> None:
    await world.post(input_image=in_base64(picture()))
    world.use = replace(world.use, store=BrokenStore(tmp_path / "images"))
    with capture_logs() as logs:
        for _ in range(20):
            await world.work()
            world.clock.advance(400)
    lines = [line for line in logs if line["event"] == "job"]

    assert len(await world.use.db.read(jobs.dead_letters)) == 1
    assert [(line["log_level"], line["outcome"], line["code"]) for line in lines] == [
        ("error", "failed", "internal_error")
    ] * 10
    assert [line["attempt"] for line in lines] == list(range(1, 11))


async def test_a_step_that_fails_once_loses_nothing(each_world: World, tmp_path: Path) -> None:
    task_id = await each_world.post(input_image=in_base64(picture()))
    good = each_world.use
    small(each_world)
    each_world.use = replace(good, store=BrokenStore(tmp_path / "images"))
    await each_world.work()
    each_world.use = good
    each_world.clock.advance(3)
    await each_world.work()
    await each_world.go_on(5)

    assert (await each_world.task(task_id))["status"] == "stored"


async def test_the_log_line_of_a_job_has_its_task_and_outcome_and_no_secret(world: World) -> None:
    small(world)
    task_id = await world.post(prompt="a private wish")
    with capture_logs() as logs:
        await world.work()
    (line,) = [line for line in logs if line["event"] == "job"]

    attempt = (await world.timeline(task_id, "submission"))[0]["submission_id"]
    assert (line["step"], line["task_id"], line["outcome"], line["attempt"]) == ("dispatch", task_id, "done", 1)
    assert (line["key_id"], line["submission_id"]) == ("key_admin", attempt)
    assert line["ms"] >= 0
    assert "private wish" not in str(logs)


async def test_a_running_worker_runs_old_and_new_jobs_and_stops_on_request(each_world: World) -> None:
    small(each_world)
    first = await each_world.post()
    async with running(each_world.use):
        second = await each_world.post()

        async def submitted() -> bool:
            return all([(await each_world.task(task_id))["status"] == "submitted" for task_id in (first, second)])

        await until(submitted)

    assert each_world.ledger()["accepted"] == 2
    await each_world.post()
    assert each_world.ledger()["accepted"] == 2


async def test_a_worker_runs_the_jobs_of_a_dead_one(world: World) -> None:
    small(world)
    task_id = await world.post()
    await world.use.db.write(lambda connection: claim(connection, world.clock()))
    async with running(world.use):

        async def submitted() -> bool:
            return bool((await world.task(task_id))["status"] == "submitted")

        await until(submitted)


async def test_a_stopping_worker_finishes_its_running_jobs(world: World) -> None:
    asked, may_answer = asyncio.Event(), asyncio.Event()

    async def slowly(_: SubmitRequest) -> ProviderResponse:
        asked.set()
        await may_answer.wait()
        return TAKEN

    task_id = await world.post()
    async with running(with_provider(world.use, Scripted(slowly))) as stopping:
        await asked.wait()
        stopping.set()
        await asyncio.sleep(0.05)
        may_answer.set()

    assert (await world.task(task_id))["status"] == "submitted"
    assert await world.use.db.write(lambda connection: claim(connection, world.clock())) == []


async def test_a_stopping_worker_claims_no_more_jobs(world: World) -> None:
    asked, may_answer = asyncio.Event(), asyncio.Event()

    async def slowly(_: SubmitRequest) -> ProviderResponse:
        asked.set()
        await may_answer.wait()
        return TAKEN

    await world.post()
    async with running(with_provider(world.use, Scripted(slowly))) as stopping:
        await asked.wait()
        stopping.set()
        second = await world.post()
        may_answer.set()

    assert (await world.task(second))["status"] == "queued"
    assert await world.use.db.read(lambda connection: jobs.scheduled(connection, Step.DISPATCH, {second})) == {second}


async def test_a_job_that_exceeds_the_grace_period_is_cancelled_and_claimable_again(each_world: World) -> None:
    asked, cancelled = asyncio.Event(), asyncio.Event()

    class HangingStore(FolderStore):
        async def read(self, key: str, start: int, end: int) -> AsyncGenerator[bytes]:
            asked.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise
            yield b"%r%d%d" % (key, start, end)

    task_id = await each_world.post(input_image=in_base64(picture()))
    good, folder = each_world.use, each_world.use.scratch / "images"
    async with running(replace(good, store=HangingStore(folder)), grace=0.05) as stopping:
        await asked.wait()
        stopping.set()
    before = (await each_world.task(task_id))["status"]
    await each_world.work()

    assert cancelled.is_set()
    assert before == "queued"
    assert (await each_world.task(task_id))["status"] == "submitted"
    assert each_world.ledger()["accepted"] == 1


async def test_a_lane_runs_no_more_jobs_at_once_than_its_limit(world: World) -> None:
    ((_, hands),) = [lane for lane in loop.LANES if Step.DISPATCH in lane[0]]
    may_answer = asyncio.Event()

    async def slowly(_: SubmitRequest) -> ProviderResponse:
        await may_answer.wait()
        return TAKEN

    await world.use.db.write(lambda connection: put_account(connection, account=hands + 5))
    provider = Scripted(slowly)
    for _ in range(hands + 5):
        await world.post()
    async with running(with_provider(world.use, provider)):

        async def full() -> bool:
            return len(provider.orders) >= hands

        await until(full)
        await asyncio.sleep(0.1)
        at_most = len(provider.orders)
        may_answer.set()

        async def all_asked() -> bool:
            return len(provider.orders) == hands + 5

        await until(all_asked)

    assert at_most == hands


async def test_every_step_is_in_one_lane() -> None:
    steps = [step for lane, _ in loop.LANES for step in lane]

    assert sorted(steps) == sorted(Step)


async def test_a_hanging_provider_does_not_delay_collecting_images(each_world: World) -> None:
    """One lane is full; the other lanes continue."""
    caller = await submitted(each_world)
    await done(each_world)
    asked: list[SubmitRequest] = []

    async def never(order: SubmitRequest) -> ProviderResponse:
        asked.append(order)
        await asyncio.Event().wait()
        return TAKEN

    waiting = [await each_world.post() for _ in range(23)]
    async with running(with_provider(each_world.use, Scripted(never)), grace=0.05):

        async def tied() -> bool:
            return len(asked) == len(waiting)

        await until(tied)
        await caller.call(caller.ready())

        async def stored() -> bool:
            return await states(each_world, [caller.task_id]) == {"stored"}

        await until(stored)

    assert await states(each_world, waiting) == {"submitting"}


async def test_a_running_worker_sweeps(world: World) -> None:
    async with running(world.use):

        async def swept() -> bool:
            due = await world.use.db.read(jobs.next_due)
            return due is not None and due > world.clock()

        await until(swept)

    assert await world.use.db.read(jobs.next_due) == world.clock() + sweep.EVERY


class Away(OneByOne):
    """A database that is unavailable for its first calls, or fails with an unknown error."""

    def __init__(self, inner: Database, calls: int, error: Exception | None = None) -> None:
        self._inner = inner
        self._calls = calls
        self._error = error or Unavailable("away")
        self.dialect = inner.dialect
        self.on_jobs = inner.on_jobs
        self.on_events = inner.on_events

    def _count(self) -> None:
        self._calls -= 1
        if self._calls >= 0:
            raise self._error

    async def read(self, work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        self._count()
        return await self._inner.read(work, *args, **kwargs)

    async def write(self, work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        self._count()
        return await self._inner.write(work, *args, **kwargs)


@pytest.mark.parametrize("error", [Unavailable("away"), KeyError("unheard of")])
async def test_a_worker_survives_a_database_failure_at_its_start(world: World, error: Exception) -> None:
    small(world)
    task_id = await world.post()
    async with running(replace(world.use, db=Away(world.use.db, 2, error))):

        async def submitted() -> bool:
            return bool((await world.task(task_id))["status"] == "submitted")

        await until(submitted)


async def test_answers_in_any_order_are_recorded_for_their_tasks(world: World) -> None:
    provider = answering(*(ProviderResponse(Report(Said.PENDING, f"p{number}"), 200, {}, b"{}") for number in range(5)))
    task_ids = [await world.post() for _ in range(5)]
    world.use = with_provider(world.use, provider)
    await world.work()

    for number, task_id in enumerate(task_ids):
        (entry,) = await world.timeline(task_id, "submission")
        assert entry["provider_id"] == f"p{number}"


async def test_a_start_polls_every_submitted_task(each_world: World) -> None:
    small(each_world)
    each_world.twin.faults = Faults(drop_callback=1)
    task_id = await each_world.post()
    await each_world.work()
    each_world.clock.advance(3)
    await each_world.twin.tick()

    async with running(each_world.use):
        await until(lambda: is_stored(each_world, task_id))

    testimonies = await each_world.timeline(task_id, "evidence")
    assert [each["witness"] for each in testimonies] == ["submit", "poll"]


async def is_stored(world: World, task_id: str) -> bool:
    return await states(world, [task_id]) == {"stored"}
