"""The room of a worker, and the jobs that it claims in the transactions that enqueue them, on both databases."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest

from app import jobs
from app.db import Connection
from app.db.engine.database import Database, open_database
from app.db.tables import events
from app.jobs import Job, Lane, NewJob, Step
from app.worker.room import EnqueuedClaims, Room
from tests.postgres import set_time
from tests.rows import START, WORKER
from tests.sockets import until

LANES = (Lane((Step.COLLECT,), 2), Lane((Step.NOTIFY, Step.ADMIT), 1))
DUE = NewJob(Step.COLLECT, "task_1", START)


def later(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def collect(*numbers: int) -> list[NewJob]:
    return [NewJob(Step.COLLECT, f"task_{number}", START) for number in numbers]


def test_a_lane_takes_as_many_jobs_as_it_has_room_for() -> None:
    room = Room(LANES)

    assert [room.take(Step.COLLECT) for _ in range(3)] == [True, True, False]
    assert [room.take(step) for step in (Step.NOTIFY, Step.ADMIT)] == [True, False]


def test_a_job_waits_behind_those_that_wait_already_although_there_is_room() -> None:
    room = Room(LANES)
    assert [room.take(Step.COLLECT) for _ in range(3)] == [True, True, False]
    room.give(Step.COLLECT)
    assert room.take(Step.COLLECT) is False

    some = room.take_all()
    assert [(lane.steps, lane.limit) for lane in some] == [(LANES[0].steps, 1), (LANES[1].steps, 1)]
    room.end_claim(some, [Job(1, Step.COLLECT, "task_1", 0, WORKER)])
    room.give(Step.COLLECT)
    assert room.take(Step.COLLECT) is False  # the claim took all that it could, so others may still wait

    room.end_claim(room.take_all(), [])
    assert room.take(Step.COLLECT) is True


def test_there_is_no_room_during_a_claim() -> None:
    room = Room(LANES)
    taken = room.take_all()
    assert room.take(Step.COLLECT) is False
    room.end_claim(taken, [])
    assert [room.take(Step.COLLECT) for _ in range(3)] == [True, True, False]


@dataclass
class Given:
    """A worker that keeps the jobs that it is given."""

    database: Database
    room: Room = field(default_factory=lambda: Room(LANES))
    started: list[Job] = field(default_factory=list)
    lost: list[bool] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.claims = EnqueuedClaims(
            WORKER,
            self.room,
            lambda: START,
            timedelta(seconds=4),
            run=self.started.append,
            lose=lambda: self.lost.append(True),
        )
        self.claims.closed = False

    async def enqueue(self, *new_jobs: NewJob) -> None:
        await self.database.write(jobs.enqueue, new_jobs)
        await self.settled()

    async def settled(self) -> None:
        async def is_settled() -> bool:
            return not self.claims.pending

        await until(is_settled)

    async def claim(self) -> list[str]:
        """Return the tasks of the jobs that can be claimed."""

        def unit(connection: Connection) -> list[Job]:
            set_time(connection, later(1))
            return jobs.claim(connection, WORKER, later(1), 10)

        return [job.task_id for job in await self.database.write(unit)]

    @property
    def tasks(self) -> list[str]:
        return [job.task_id for job in self.started]


@pytest.fixture
async def given(database: Database) -> AsyncGenerator[Given]:
    given = Given(database)
    database.on_jobs(lambda: None, given.claims)
    yield given
    given.claims.closed = True


async def test_a_due_job_is_given_to_the_worker_by_the_transaction_that_enqueues_it(given: Given) -> None:
    await given.enqueue(*collect(1))

    (job,) = given.started
    assert (job.step, job.task_id, job.failures, job.holder) == (Step.COLLECT, "task_1", 0, WORKER)
    assert await given.database.read(jobs.scheduled, Step.COLLECT, ["task_1"]) == {"task_1"}
    assert await given.claim() == []
    await given.database.write(jobs.finish, job)
    assert await given.database.read(jobs.scheduled, Step.COLLECT, ["task_1"]) == set()


async def test_jobs_without_room_and_jobs_of_later_wait(given: Given) -> None:
    await given.enqueue(*collect(1, 2, 3), NewJob(Step.NOTIFY, "ep_1", later(0.5)))

    assert given.tasks == ["task_1", "task_2"]
    assert await given.claim() == ["task_3", "ep_1"]


async def test_a_job_that_waits_already_is_not_given_to_the_worker(given: Given) -> None:
    given.claims.closed = True
    await given.enqueue(*collect(1))
    given.claims.closed = False
    await given.enqueue(*collect(1, 2))

    assert given.tasks == ["task_2"]
    assert await given.claim() == ["task_1"]
    assert [given.room.take(Step.COLLECT) for _ in range(2)] == [True, False]


async def test_a_job_that_is_enqueued_while_it_runs_runs_again_after_it(given: Given) -> None:
    await given.enqueue(*collect(1))
    await given.enqueue(*collect(1))

    (job,) = given.started
    assert await given.claim() == []
    await given.database.write(jobs.finish, job)
    assert await given.claim() == ["task_1"]


async def test_a_dead_letter_does_not_keep_a_job_from_the_worker(given: Given) -> None:
    await given.enqueue(*collect(1))
    await given.database.write(jobs.dead_letter, given.started[0], "error")
    await given.enqueue(*collect(1))

    assert given.tasks == ["task_1", "task_1"]


async def test_a_rollback_gives_no_job_to_the_worker_and_leaves_its_room(given: Given) -> None:
    def unit(connection: Connection) -> None:
        jobs.enqueue(connection, collect(1, 2))
        raise KeyError

    with pytest.raises(KeyError):
        await given.database.write(unit)
    await given.settled()

    assert (given.started, given.lost) == ([], [True])
    await given.enqueue(*collect(3, 4))
    assert given.tasks == ["task_3", "task_4"]


async def test_units_that_fail_beside_others_give_no_job_to_the_worker(given: Given) -> None:
    def unit(connection: Connection, number: int) -> None:
        jobs.enqueue(connection, collect(number))
        if number % 2:
            raise KeyError

    outcomes = await asyncio.gather(
        *(given.database.write(unit, number) for number in range(4)), return_exceptions=True
    )
    await given.settled()

    assert [type(outcome) for outcome in outcomes] == [type(None), KeyError, type(None), KeyError]
    done = set(given.tasks)
    assert done <= {"task_0", "task_2"}
    assert done.union(await given.claim()) == {"task_0", "task_2"}


async def test_items_of_a_batch_that_fail_give_no_job_to_the_worker(given: Given) -> None:
    def work(connection: Connection, numbers: Sequence[int]) -> Sequence[None]:
        jobs.enqueue(connection, collect(*numbers))
        if 1 in numbers:
            raise KeyError
        return [None for _ in numbers]

    batcher = given.database.batcher(work)
    outcomes = await asyncio.gather(*(batcher.add(number) for number in range(2)), return_exceptions=True)
    await given.settled()

    assert [type(outcome) for outcome in outcomes] == [type(None), KeyError]
    assert [*given.tasks, *await given.claim()] == ["task_0"]


async def test_a_batch_after_another_takes_none_of_its_jobs_back(given: Given) -> None:
    def work(connection: Connection, numbers: Sequence[int]) -> Sequence[None]:
        jobs.enqueue(connection, collect(*numbers))
        return [None for _ in numbers]

    batcher = given.database.batcher(work)
    for number in range(4):
        await batcher.add(number)
    await given.settled()

    assert given.tasks == ["task_0", "task_1"]
    assert given.lost == []
    assert await given.claim() == ["task_2", "task_3"]


async def test_a_closed_worker_is_given_no_job(given: Given) -> None:
    given.claims.closed = True
    await given.enqueue(*collect(1))

    assert given.started == []
    assert await given.claim() == ["task_1"]


async def test_a_worker_that_closes_meanwhile_leaves_the_job_to_be_released(given: Given) -> None:
    def unit(connection: Connection) -> None:
        jobs.enqueue(connection, collect(1))
        given.claims.closed = True

    await given.database.write(unit)
    await given.claims.settled(60)

    assert (given.started, given.claims.left_jobs) == ([], True)
    assert await given.claim() == []
    await given.database.write(jobs.release, WORKER)
    assert await given.claim() == ["task_1"]


@pytest.mark.parametrize(
    ("new_jobs", "is_woken"),
    [
        (collect(1), False),
        (collect(1, 2, 3), True),
        ([NewJob(Step.COLLECT, "task_1", later(3))], True),
        ([NewJob(Step.COLLECT, "task_1", later(4))], False),
    ],
    ids=["with room", "without room", "soon", "later"],
)
async def test_the_worker_is_woken_for_jobs_that_wait_for_less_than_its_longest_wait(
    sqlite_url: str, new_jobs: list[NewJob], *, is_woken: bool
) -> None:
    signals: list[bool] = []
    async with open_database(sqlite_url) as database:
        given = Given(database)
        database.on_jobs(lambda: signals.append(True), given.claims)
        await given.enqueue(*new_jobs)

    assert bool(signals) is is_woken


async def test_on_postgresql_a_job_of_its_own_process_does_not_wake_the_worker_that_has_claimed_it(
    postgres_url: str,
) -> None:
    signals: list[str] = []

    def notify(connection: Connection) -> None:
        connection.exec_driver_sql(f"NOTIFY {events.CHANNEL}")

    async def until_signalled(kind: str) -> None:
        async def is_signalled() -> bool:
            return kind in signals

        await until(is_signalled)

    async with open_database(postgres_url) as database, open_database(postgres_url) as other:
        given = Given(database)
        database.on_events(lambda: signals.append("event"))
        database.on_jobs(lambda: signals.append("job"), given.claims)
        await until_signalled("event")  # once it listens
        await until_signalled("job")
        signals.clear()
        await given.enqueue(*collect(1))
        # Notifications arrive in the order of the commits.
        await other.write(notify)
        await until_signalled("event")
        assert (given.tasks, signals) == (["task_1"], ["event"])

        await other.write(jobs.enqueue, collect(2))
        await until_signalled("job")
