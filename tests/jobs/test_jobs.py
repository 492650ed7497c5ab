"""The conformance suite of the job engines, on both databases."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest

from app import jobs
from app.db import Connection
from app.db.engine.database import Database, open_database
from app.jobs import Backlog, DeadLetter, Job, Lane, NewJob, Step
from tests.db.tables.test_deliveries import counting_steps
from tests.postgres import set_time
from tests.rows import START, plan_task
from tests.sockets import signals_to

ME, OTHER = "1" * 32, "2" * 32


def later(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def enqueue(*new_jobs: NewJob) -> Callable[[Connection], None]:
    return lambda connection: jobs.enqueue(connection, new_jobs)


async def claim(database: Database, now: datetime = START, limit: int = 10, holder: str = ME) -> list[Job]:
    def unit(connection: Connection) -> list[Job]:
        set_time(connection, now)
        return jobs.claim(connection, holder, now, limit)

    return await database.write(unit)


async def claimed(database: Database, now: datetime = START, limit: int = 10) -> list[tuple[Step, str]]:
    return [(job.step, job.task_id) for job in await claim(database, now, limit)]


def release(connection: Connection) -> None:
    jobs.release(connection, ME)


async def take(database: Database, now: datetime = START) -> Job:
    """Claim and return the only due job."""
    (job,) = await claim(database, now)
    return job


async def finish(database: Database, found: Sequence[Job]) -> None:
    for job in found:
        await database.write(lambda connection, job=job: jobs.finish(connection, job))  # type: ignore[misc]


async def test_a_job_is_stored_only_if_its_transaction_commits(database: Database) -> None:
    def unit(connection: Connection, *, fails: bool) -> None:
        jobs.enqueue(connection, [NewJob(Step.DISPATCH, plan_task(connection, f"{fails}"), START)])
        if fails:
            raise KeyError

    for fails in (True, False):
        await asyncio.gather(
            database.write(lambda connection, fails=fails: unit(connection, fails=fails)),  # type: ignore[misc]
            return_exceptions=True,
        )

    assert await claimed(database) == [(Step.DISPATCH, "task_False")]


async def test_a_rollback_drops_jobs_enqueued_by_the_first_statement(database: Database) -> None:
    def unit(connection: Connection) -> None:
        jobs.enqueue(connection, [NewJob(Step.DISPATCH, "task_1", START)])
        raise KeyError

    with pytest.raises(KeyError):
        await database.write(unit)

    assert await claimed(database) == []


async def test_enqueuing_no_jobs_does_nothing(database: Database) -> None:
    await database.write(enqueue())

    assert await database.read(jobs.next_due) is None


async def test_a_job_does_not_run_before_its_time(database: Database) -> None:
    await database.write(enqueue(NewJob(Step.COLLECT, "task_1", later(5))))

    assert await database.read(jobs.next_due) == later(5)
    assert await claimed(database, later(4.999)) == []
    assert await claimed(database, later(5)) == [(Step.COLLECT, "task_1")]


@pytest.mark.parametrize(("first", "second", "due"), [(10, 5, 5), (5, 10, 5)])
async def test_enqueuing_a_waiting_job_again_keeps_the_earlier_time(
    database: Database, first: float, second: float, due: float
) -> None:
    for seconds in (first, second):
        await database.write(enqueue(NewJob(Step.COLLECT, "task_1", later(seconds))))

    assert await claimed(database, later(due - 1)) == []
    found = await claim(database, later(due))
    assert [(job.step, job.task_id) for job in found] == [(Step.COLLECT, "task_1")]
    await finish(database, found)
    assert await database.read(jobs.next_due) is None


async def test_enqueuing_a_job_several_times_in_one_call_keeps_the_earliest_time(database: Database) -> None:
    times = [later(7), later(3), later(9)]
    await database.write(enqueue(*(NewJob(Step.COLLECT, "task_1", at) for at in times)))

    assert await database.read(jobs.next_due) == later(3)
    assert len(await claim(database, later(10))) == 1


async def test_a_job_that_runs_again_comes_after_the_jobs_that_fell_due_before(database: Database) -> None:
    """Otherwise a job that always runs again would block the others."""
    await database.write(enqueue(NewJob(Step.NOTIFY, "ep_busy", START)))
    busy = await take(database)
    await database.write(enqueue(NewJob(Step.NOTIFY, "ep_new", later(1))))
    await database.write(enqueue(NewJob(Step.NOTIFY, "ep_busy", later(2))))
    await finish(database, [busy])

    assert await claimed(database, later(3), limit=1) == [(Step.NOTIFY, "ep_new")]


async def test_a_failed_job_comes_after_the_jobs_that_fell_due_before(database: Database) -> None:
    await database.write(enqueue(NewJob(Step.NOTIFY, "ep_failed", START)))
    failed = await take(database)
    await database.write(enqueue(NewJob(Step.NOTIFY, "ep_new", later(1))))
    await database.write(lambda connection: jobs.retry(connection, failed, later(2), "KeyError"))

    assert await claimed(database, later(3), limit=1) == [(Step.NOTIFY, "ep_new")]


async def test_enqueuing_a_job_many_times_leaves_one(database: Database) -> None:
    for seconds in range(20):
        await database.write(enqueue(NewJob(Step.COLLECT, "task_1", later(seconds))))

    found = await claim(database, later(99))
    assert len(found) == 1
    await finish(database, found)
    assert await database.read(jobs.next_due) is None


async def test_jobs_of_different_steps_and_tasks_wait_independently(database: Database) -> None:
    wanted = [
        NewJob(Step.COLLECT, "task_1", START),
        NewJob(Step.RECONCILE, "task_1", later(1)),
        NewJob(Step.COLLECT, "task_2", later(2)),
    ]
    await database.write(enqueue(*wanted))
    done = []
    while found := await claim(database, later(9), 1):
        done += [(job.step, job.task_id) for job in found]
        await finish(database, found)

    assert done == [(step, task_id) for step, task_id, _ in wanted]


async def test_a_job_enqueued_while_it_runs_runs_again(database: Database) -> None:
    await database.write(enqueue(NewJob(Step.COLLECT, "task_1", START)))
    running = await claim(database)
    await database.write(enqueue(NewJob(Step.COLLECT, "task_1", START)))
    meanwhile = await claimed(database)
    await finish(database, running)

    assert meanwhile == []
    assert await claimed(database) == [(Step.COLLECT, "task_1")]


async def test_a_claim_takes_the_longest_due_jobs_up_to_its_limit(database: Database) -> None:
    order = ["task_c", "task_a", "task_d", "task_b"]
    await database.write(
        enqueue(*(NewJob(Step.DISPATCH, task_id, later(order.index(task_id))) for task_id in sorted(order)))
    )

    first = await claimed(database, later(9), 3)
    second = await claimed(database, later(9), 3)

    assert [task_id for _, task_id in first + second] == order


async def test_different_steps_of_one_task_may_run_at_once(database: Database) -> None:
    """A download that hangs must not delay the request for a fresh link."""
    await database.write(enqueue(NewJob(Step.COLLECT, "task_1", START), NewJob(Step.RECONCILE, "task_1", later(1))))
    first = await claimed(database, START)
    second = await claimed(database, later(2))

    assert (first, second) == ([(Step.COLLECT, "task_1")], [(Step.RECONCILE, "task_1")])


async def test_a_running_step_does_not_delay_other_tasks(database: Database) -> None:
    await database.write(enqueue(NewJob(Step.COLLECT, "task_1", START)))
    await claim(database)
    await database.write(enqueue(NewJob(Step.COLLECT, "task_1", START), NewJob(Step.COLLECT, "task_2", later(1))))

    assert await claimed(database, later(1), 1) == [(Step.COLLECT, "task_2")]


async def test_a_claim_takes_only_the_requested_steps(database: Database) -> None:
    await database.write(enqueue(*(NewJob(step, "task_1", START) for step in Step)))
    lane = {Step.DISPATCH, Step.SWEEP}

    def unit(connection: Connection) -> list[Job]:
        set_time(connection, START)
        return jobs.claim(connection, ME, START, 9, lane)

    found = await database.write(unit)
    rest = await claimed(database)

    assert {job.step for job in found} == lane
    assert {step for step, _ in rest} == set(Step) - lane


async def test_jobs_are_claimed_in_the_order_in_which_their_links_expire(database: Database) -> None:
    def unit(connection: Connection) -> None:
        for number, expires in enumerate((90, 30, 60)):
            plan_task(connection, f"{number}", sample_expires_at=later(expires))
        wanted = [NewJob(Step.COLLECT, f"task_{number}", later(number)) for number in range(3)]
        jobs.enqueue(connection, wanted)

    await database.write(unit)
    found = [(await claimed(database, later(5), 1))[0] for _ in range(3)]

    assert [task_id for _, task_id in found] == ["task_1", "task_2", "task_0"]


async def test_jobs_in_all_states_are_scheduled(database: Database) -> None:
    names = {"task_waiting", "task_running", "task_held", "task_none", "task_other"}
    await database.write(enqueue(NewJob(Step.COLLECT, "task_running", START), NewJob(Step.COLLECT, "task_held", START)))
    (failed,) = [job for job in await claim(database) if job.task_id == "task_held"]
    await database.write(lambda connection: jobs.dead_letter(connection, failed, "KeyError"))
    await database.write(
        enqueue(NewJob(Step.COLLECT, "task_waiting", later(9)), NewJob(Step.DISPATCH, "task_other", START))
    )

    found = await database.read(lambda connection: jobs.scheduled(connection, Step.COLLECT, names))
    assert found == {"task_waiting", "task_running", "task_held"}


async def test_the_jobs_of_a_task_are_planned_until_they_end(database: Database) -> None:
    async def planned() -> list[tuple[Step, datetime, str, int]]:
        found = await database.read(jobs.planned, "task_1", (Step.COLLECT, Step.RECONCILE, Step.DISPATCH))
        return [(job.step, job.run_at, job.state, job.failures) for job in found]

    await database.write(
        enqueue(
            NewJob(Step.COLLECT, "task_1", START),
            NewJob(Step.RECONCILE, "task_1", START),
            NewJob(Step.DISPATCH, "task_1", later(60)),
            NewJob(Step.ERASE, "task_1", later(60)),  # not asked for
            NewJob(Step.COLLECT, "task_2", later(60)),
        )
    )
    running = {job.step: job for job in await claim(database) if job.task_id == "task_1"}
    await database.write(lambda connection: jobs.dead_letter(connection, running[Step.RECONCILE], "KeyError"))
    await database.write(enqueue(NewJob(Step.COLLECT, "task_1", later(30))))  # while it runs

    assert sorted(await planned(), key=str) == sorted(
        [
            (Step.COLLECT, START, "running", 0),
            (Step.COLLECT, later(30), "waiting", 0),
            (Step.DISPATCH, later(60), "waiting", 0),
            (Step.RECONCILE, START, "held", 1),
        ],
        key=str,
    )
    await database.write(lambda connection: jobs.finish(connection, running[Step.COLLECT]))
    assert (Step.COLLECT, START, "running", 0) not in await planned()


async def test_many_claims_at_once_take_each_job_once(database: Database) -> None:
    wanted = [
        NewJob(step, f"task_{number:02}", START) for number in range(30) for step in (Step.RECONCILE, Step.COLLECT)
    ]
    await database.write(enqueue(*wanted))

    async def take_all() -> list[Job]:
        taken: list[Job] = []
        while some := await claim(database, limit=4):
            taken += some
        return taken

    # A claim that finds only locked jobs returns none; a worker would claim again at the next wakeup.
    found = [job for batch in await asyncio.gather(*(take_all() for _ in range(20))) for job in batch]
    found += await claim(database, limit=60)

    assert len({job.id for job in found}) == len(found) == 60
    assert {(job.step, job.task_id) for job in found} == {(job.step, job.task_id) for job in wanted}


async def test_a_finished_job_is_gone(database: Database) -> None:
    await database.write(enqueue(NewJob(Step.DISPATCH, "task_1", START)))
    await finish(database, await claim(database))
    await database.write(release)

    assert await claimed(database, later(999)) == []


async def fail(database: Database, job: Job, at: datetime) -> None:
    await database.write(lambda connection: jobs.retry(connection, job, at, "KeyError"))


async def test_a_failed_job_runs_again_and_remembers_how_often_it_failed(database: Database) -> None:
    await database.write(enqueue(NewJob(Step.DISPATCH, "task_1", START)))
    counts = []
    for number in range(3):
        job = await take(database, later(number))
        counts.append(job.failures)
        await fail(database, job, later(number + 1))

    assert counts == [0, 1, 2]
    assert await claimed(database, later(2.5)) == []


async def test_a_failed_job_passes_its_count_to_the_same_job_that_waits(database: Database) -> None:
    await database.write(enqueue(NewJob(Step.DISPATCH, "task_1", START)))
    job = await take(database)
    await database.write(enqueue(NewJob(Step.DISPATCH, "task_1", later(1))))
    await fail(database, job, later(60))

    again = await take(database, later(1))
    assert again.failures == 1
    await finish(database, [again])
    assert await claimed(database, later(999)) == []


async def test_enqueuing_a_failed_job_again_keeps_its_count_of_failures(database: Database) -> None:
    await database.write(enqueue(NewJob(Step.DISPATCH, "task_1", START)))
    await fail(database, await take(database), later(60))
    await database.write(enqueue(NewJob(Step.DISPATCH, "task_1", later(1))))

    assert (await take(database, later(1))).failures == 1


async def test_a_dead_letter_is_counted_and_does_not_run_but_the_same_job_may(database: Database) -> None:
    await database.write(enqueue(NewJob(Step.DISPATCH, "task_1", START)))
    job = await take(database)
    await database.write(lambda connection: jobs.dead_letter(connection, job, "KeyError"))
    await database.write(release)
    claimable = await claimed(database, later(999))
    await database.write(enqueue(NewJob(Step.DISPATCH, "task_1", START)))

    assert len(await database.read(jobs.dead_letters)) == 1
    assert claimable == []
    assert await claimed(database) == [(Step.DISPATCH, "task_1")]


async def make_dead_letter(database: Database, task_id: str) -> DeadLetter:
    await database.write(enqueue(NewJob(Step.DISPATCH, task_id, START)))
    job = await take(database)
    await database.write(lambda connection: jobs.dead_letter(connection, job, "KeyError"))
    return (await database.read(jobs.dead_letters))[-1]


async def test_a_dead_letter_has_its_step_task_failures_and_error(database: Database) -> None:
    await database.write(enqueue(NewJob(Step.DISPATCH, "task_1", START)))
    await fail(database, await take(database), START)
    again = await take(database)
    await database.write(lambda connection: jobs.dead_letter(connection, again, "KeyError"))
    (letter,) = await database.read(jobs.dead_letters)

    assert (letter.step, letter.task_id, letter.failures, letter.error) == (
        Step.DISPATCH,
        "task_1",
        2,
        "KeyError",
    )


async def test_a_job_enqueued_during_the_last_try_runs_after_its_failure(database: Database) -> None:
    await database.write(enqueue(NewJob(Step.DISPATCH, "task_1", START)))
    job = await take(database)
    await database.write(enqueue(NewJob(Step.DISPATCH, "task_1", later(1))))
    await database.write(lambda connection: jobs.dead_letter(connection, job, "KeyError"))

    assert len(await database.read(jobs.dead_letters)) == 1
    assert await claimed(database, later(1)) == [(Step.DISPATCH, "task_1")]


async def test_a_requeued_job_has_no_failures_and_the_other_dead_letters_stay(database: Database) -> None:
    first, second = [await make_dead_letter(database, task_id) for task_id in ("task_1", "task_2")]
    count = await database.write(lambda connection: jobs.requeue(connection, [first.id, 999_999], START))
    again = await take(database)

    assert (count, again.task_id, again.failures) == (1, "task_1", 0)
    assert [letter.id for letter in await database.read(jobs.dead_letters)] == [second.id]


async def test_a_requeued_job_that_already_waits_runs_once(database: Database) -> None:
    letter = await make_dead_letter(database, "task_1")
    await database.write(enqueue(NewJob(Step.DISPATCH, "task_1", later(5))))
    await database.write(lambda connection: jobs.requeue(connection, [letter.id], START))
    job = await take(database)
    await finish(database, [job])

    assert await claimed(database, later(9)) == []


async def test_a_waiting_job_is_not_requeued(database: Database) -> None:
    await database.write(enqueue(NewJob(Step.DISPATCH, "task_1", later(5))))
    (job_id,) = [job.id for job in await claim(database, later(5))]

    assert await database.write(lambda connection: jobs.requeue(connection, [job_id], START)) == 0


async def test_the_backlog_of_each_step_is_counted(database: Database) -> None:
    await database.write(
        enqueue(
            NewJob(Step.COLLECT, "a", later(-9)),
            NewJob(Step.COLLECT, "b", later(-5)),
            NewJob(Step.COLLECT, "c", later(60)),
            NewJob(Step.RECONCILE, "a", later(60)),
            NewJob(Step.DISPATCH, "d", later(-99)),
        )
    )
    await database.write(lambda connection: jobs.claim(connection, ME, START, 9, {Step.DISPATCH}))
    backlogs = await database.read(lambda connection: jobs.backlogs(connection, START))

    assert set(backlogs) == set(Step)
    assert backlogs[Step.COLLECT] == Backlog(waiting=3, due=2, oldest_due=later(-9))
    assert backlogs[Step.RECONCILE] == Backlog(waiting=1)
    assert backlogs[Step.DISPATCH] == Backlog()


async def test_released_jobs_run_again_with_their_count_of_failures(database: Database) -> None:
    await database.write(enqueue(NewJob(Step.DISPATCH, "task_1", START), NewJob(Step.COLLECT, "task_2", START)))
    for job in await claim(database):
        await fail(database, job, later(1))
    lost = await claim(database, later(1))
    await database.write(enqueue(NewJob(Step.COLLECT, "task_2", later(60))))
    await database.write(release)
    again = await claim(database, later(1))

    assert {(job.task_id, job.failures) for job in again} == {(job.task_id, 1) for job in lost}
    assert len(again) == 2
    await finish(database, again)
    assert await claimed(database, later(999)) == []


async def test_jobs_that_still_run_can_be_kept_from_a_release(database: Database) -> None:
    await database.write(enqueue(NewJob(Step.DISPATCH, "task_1", START), NewJob(Step.COLLECT, "task_2", START)))
    running, lost = await claim(database)
    await database.write(lambda connection: jobs.release(connection, ME, [running.id]))

    assert [job.task_id for job in await claim(database)] == [lost.task_id]


async def test_releasing_with_nothing_running_changes_nothing(database: Database) -> None:
    await database.write(enqueue(NewJob(Step.DISPATCH, "task_1", later(1))))
    await database.write(release)

    assert await database.read(jobs.next_due) == later(1)


async def test_waiting_jobs_of_one_step_can_be_dropped(database: Database) -> None:
    both = [NewJob(Step.RECONCILE, "task_1", START), NewJob(Step.RECONCILE, "task_2", START)]
    await database.write(enqueue(*both, NewJob(Step.COLLECT, "task_1", START)))
    await database.write(lambda connection: jobs.drop(connection, Step.RECONCILE, ["task_1", "task_3"]))

    assert sorted(await claimed(database)) == [(Step.COLLECT, "task_1"), (Step.RECONCILE, "task_2")]


async def test_a_job_that_runs_is_not_dropped(database: Database) -> None:
    await database.write(enqueue(NewJob(Step.RECONCILE, "task_1", START)))
    running = await take(database)
    await database.write(lambda connection: jobs.drop(connection, Step.RECONCILE, ["task_1"]))
    await database.write(lambda connection: jobs.retry(connection, running, later(1), "KeyError"))

    assert await claimed(database, later(1)) == [(Step.RECONCILE, "task_1")]


async def test_the_last_transaction_of_a_step_ends_its_job(database: Database) -> None:
    await database.write(enqueue(NewJob(Step.COLLECT, "task_1", START)))
    end = jobs.end_of(await take(database))
    await database.write(end.after(jobs.enqueue), [NewJob(Step.RECONCILE, "task_1", START)])

    assert end.is_recorded
    assert await claimed(database, later(999)) == [(Step.RECONCILE, "task_1")]


async def test_a_transaction_that_fails_does_not_end_the_job(database: Database) -> None:
    await database.write(enqueue(NewJob(Step.COLLECT, "task_1", START)))
    end = jobs.end_of(await take(database))

    def work_and_fail(connection: Connection) -> None:
        end.after(jobs.enqueue)(connection, [])
        raise KeyError

    with pytest.raises(KeyError):
        await database.write(work_and_fail)

    assert not end.is_recorded
    await database.write(release)
    assert await claimed(database) == [(Step.COLLECT, "task_1")]


@pytest.mark.parametrize("call", ["enqueue", "retry"])
async def test_listeners_are_called_when_there_may_be_jobs(database: Database, call: str) -> None:
    await database.write(enqueue(NewJob(Step.DISPATCH, "task_1", START)))
    job = await take(database)
    units: dict[str, Callable[[Connection], Any]] = {
        "enqueue": enqueue(NewJob(Step.DISPATCH, "task_2", START)),
        "retry": lambda connection: jobs.retry(connection, job, START, "KeyError"),
    }
    calls = await signals_to(database)
    await database.write(units[call])
    await database.write(lambda _: None)

    assert calls


async def test_each_lane_gets_its_jobs_however_many_of_another_lane_are_due_before_them(database: Database) -> None:
    def fill(connection: Connection) -> None:
        names = [plan_task(connection, f"{number:03}") for number in range(120)]
        jobs.enqueue(connection, [NewJob(Step.COLLECT, name, START) for name in names])
        jobs.enqueue(connection, [NewJob(Step.DISPATCH, names[0], later(1)), NewJob(Step.NOTIFY, names[0], later(9))])

    def unit(connection: Connection) -> list[tuple[Step, str]]:
        set_time(connection, later(2))
        lanes = [Lane({Step.COLLECT}, 1), Lane({Step.DISPATCH, Step.RECONCILE}, 5), Lane({Step.NOTIFY}, 5)]
        claimed = jobs.claim_for_lanes(connection, ME, later(2), lanes)
        return [(job.step, job.task_id) for job in claimed]

    await database.write(fill)
    assert await database.write(unit) == [(Step.COLLECT, "task_000"), (Step.DISPATCH, "task_000")]


async def test_on_sqlite_dropping_jobs_does_not_read_the_others_that_wait(sqlite_url: str) -> None:
    dropped = [f"task_{number}" for number in range(16)]

    def drop(connection: Connection) -> None:
        jobs.enqueue(connection, [NewJob(Step.RECONCILE, task_id, START) for task_id in dropped])
        jobs.drop(connection, Step.RECONCILE, dropped)

    async with open_database(sqlite_url) as database:
        await database.write(drop)
        before = await database.write(counting_steps(drop))
        others = [NewJob(Step.RECONCILE, f"task_{number}", START) for number in range(100, 3000)]
        await database.write(enqueue(*others))
        after = await database.write(counting_steps(drop))
        left = await database.read(jobs.scheduled, Step.RECONCILE, [*dropped, "task_100"])

    assert after == before
    assert left == {"task_100"}
