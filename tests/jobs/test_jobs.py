"""What every engine of jobs has to keep: the conformance suite, on both databases."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest

from app import jobs
from app.db import Connection
from app.db.engine.database import Database
from app.jobs import Backlog, DeadLetter, Job, Step
from tests.postgres import set_time
from tests.rows import START, plan_task
from tests.sockets import signals_to

ME, OTHER = "1" * 32, "2" * 32


def later(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def enqueue(*wanted: tuple[Step, str, datetime]) -> Callable[[Connection], None]:
    return lambda connection: jobs.enqueue(connection, wanted)


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
    """The only job that is due."""
    (job,) = await claim(database, now)
    return job


async def finish(database: Database, found: Sequence[Job]) -> None:
    for job in found:
        await database.write(lambda connection, job=job: jobs.finish(connection, job))  # type: ignore[misc]


async def test_a_job_is_there_exactly_when_its_reason_is(database: Database) -> None:
    def unit(connection: Connection, *, fails: bool) -> None:
        jobs.enqueue(connection, [(Step.DISPATCH, plan_task(connection, f"{fails}"), START)])
        if fails:
            raise KeyError

    for fails in (True, False):
        await asyncio.gather(
            database.write(lambda connection, fails=fails: unit(connection, fails=fails)),  # type: ignore[misc]
            return_exceptions=True,
        )

    assert await claimed(database) == [(Step.DISPATCH, "task_False")]


async def test_a_rollback_drops_jobs_that_were_the_units_first_statement(database: Database) -> None:
    def unit(connection: Connection) -> None:
        jobs.enqueue(connection, [(Step.DISPATCH, "task_1", START)])
        raise KeyError

    with pytest.raises(KeyError):
        await database.write(unit)

    assert await claimed(database) == []


async def test_nothing_to_enqueue_is_fine(database: Database) -> None:
    await database.write(enqueue())

    assert await database.read(jobs.next_due) is None


async def test_a_job_does_not_run_before_its_time(database: Database) -> None:
    await database.write(enqueue((Step.COLLECT, "task_1", later(5))))

    assert await database.read(jobs.next_due) == later(5)
    assert await claimed(database, later(4.999)) == []
    assert await claimed(database, later(5)) == [(Step.COLLECT, "task_1")]


@pytest.mark.parametrize(("first", "second", "due"), [(10, 5, 5), (5, 10, 5)])
async def test_asking_again_brings_a_job_forward_and_never_puts_it_off(
    database: Database, first: float, second: float, due: float
) -> None:
    for seconds in (first, second):
        await database.write(enqueue((Step.COLLECT, "task_1", later(seconds))))

    assert await claimed(database, later(due - 1)) == []
    found = await claim(database, later(due))
    assert [(job.step, job.task_id) for job in found] == [(Step.COLLECT, "task_1")]
    await finish(database, found)
    assert await database.read(jobs.next_due) is None


async def test_the_earliest_of_several_wishes_in_one_call_counts(database: Database) -> None:
    times = [later(7), later(3), later(9)]
    await database.write(enqueue(*((Step.COLLECT, "task_1", at) for at in times)))

    assert await database.read(jobs.next_due) == later(3)
    assert len(await claim(database, later(10))) == 1


async def test_a_job_that_is_to_run_again_has_its_turn_behind_those_that_fell_due_before(database: Database) -> None:
    """Else those that never come to an end would leave nothing to the others."""
    await database.write(enqueue((Step.NOTIFY, "ep_busy", START)))
    busy = await take(database)
    await database.write(enqueue((Step.NOTIFY, "ep_new", later(1))))
    await database.write(enqueue((Step.NOTIFY, "ep_busy", later(2))))
    await finish(database, [busy])

    assert await claimed(database, later(3), limit=1) == [(Step.NOTIFY, "ep_new")]


async def test_a_job_that_failed_has_its_turn_behind_those_that_fell_due_before(database: Database) -> None:
    await database.write(enqueue((Step.NOTIFY, "ep_failed", START)))
    failed = await take(database)
    await database.write(enqueue((Step.NOTIFY, "ep_new", later(1))))
    await database.write(lambda connection: jobs.retry(connection, failed, later(2), "KeyError"))

    assert await claimed(database, later(3), limit=1) == [(Step.NOTIFY, "ep_new")]


async def test_asking_for_the_same_job_many_times_leaves_one(database: Database) -> None:
    for seconds in range(20):
        await database.write(enqueue((Step.COLLECT, "task_1", later(seconds))))

    found = await claim(database, later(99))
    assert len(found) == 1
    await finish(database, found)
    assert await database.read(jobs.next_due) is None


async def test_other_steps_and_other_tasks_wait_beside_each_other(database: Database) -> None:
    wanted = [(Step.COLLECT, "task_1", START), (Step.RECONCILE, "task_1", later(1)), (Step.COLLECT, "task_2", later(2))]
    await database.write(enqueue(*wanted))
    done = []
    while found := await claim(database, later(9), 1):
        done += [(job.step, job.task_id) for job in found]
        await finish(database, found)

    assert done == [(step, task_id) for step, task_id, _ in wanted]


async def test_what_is_asked_for_while_a_job_runs_waits_for_another_run(database: Database) -> None:
    await database.write(enqueue((Step.COLLECT, "task_1", START)))
    running = await claim(database)
    await database.write(enqueue((Step.COLLECT, "task_1", START)))
    meanwhile = await claimed(database)
    await finish(database, running)

    assert meanwhile == []
    assert await claimed(database) == [(Step.COLLECT, "task_1")]


async def test_the_longest_due_come_first_and_no_more_than_asked_for(database: Database) -> None:
    order = ["task_c", "task_a", "task_d", "task_b"]
    await database.write(enqueue(*((Step.DISPATCH, task_id, later(order.index(task_id))) for task_id in sorted(order))))

    first = await claimed(database, later(9), 3)
    second = await claimed(database, later(9), 3)

    assert [task_id for _, task_id in first + second] == order


async def test_different_steps_of_one_task_may_be_done_at_once(database: Database) -> None:
    """A download that hangs must not keep the provider from being asked for a fresh link."""
    await database.write(enqueue((Step.COLLECT, "task_1", START), (Step.RECONCILE, "task_1", later(1))))
    first = await claimed(database, START)
    second = await claimed(database, later(2))

    assert (first, second) == ([(Step.COLLECT, "task_1")], [(Step.RECONCILE, "task_1")])


async def test_a_step_in_hand_does_not_hold_up_the_other_tasks(database: Database) -> None:
    await database.write(enqueue((Step.COLLECT, "task_1", START)))
    await claim(database)
    await database.write(enqueue((Step.COLLECT, "task_1", START), (Step.COLLECT, "task_2", later(1))))

    assert await claimed(database, later(1), 1) == [(Step.COLLECT, "task_2")]


async def test_a_lane_takes_its_own_steps_alone(database: Database) -> None:
    await database.write(enqueue(*((step, "task_1", START) for step in Step)))
    lane = {Step.DISPATCH, Step.SWEEP}

    def unit(connection: Connection) -> list[Job]:
        set_time(connection, START)
        return jobs.claim(connection, ME, START, 9, lane)

    found = await database.write(unit)
    rest = await claimed(database)

    assert {job.step for job in found} == lane
    assert {step for step, _ in rest} == set(Step) - lane


async def test_the_task_whose_link_dies_first_comes_first_whenever_its_job_was_left(database: Database) -> None:
    def unit(connection: Connection) -> None:
        for number, expires in enumerate((90, 30, 60)):
            plan_task(connection, f"{number}", sample_expires_at=later(expires))
        wanted = [(Step.COLLECT, f"task_{number}", later(number)) for number in range(3)]
        jobs.enqueue(connection, wanted)

    await database.write(unit)
    found = [(await claimed(database, later(5), 1))[0] for _ in range(3)]

    assert [task_id for _, task_id in found] == ["task_1", "task_2", "task_0"]


async def test_whether_a_task_has_a_job_is_known_whatever_becomes_of_it(database: Database) -> None:
    names = {"task_waiting", "task_running", "task_held", "task_none", "task_other"}
    await database.write(enqueue((Step.COLLECT, "task_running", START), (Step.COLLECT, "task_held", START)))
    (dead_letters,) = [job for job in await claim(database) if job.task_id == "task_held"]
    await database.write(lambda connection: jobs.dead_letter(connection, dead_letters, "KeyError"))
    await database.write(enqueue((Step.COLLECT, "task_waiting", later(9)), (Step.DISPATCH, "task_other", START)))

    found = await database.read(lambda connection: jobs.scheduled(connection, Step.COLLECT, names))
    assert found == {"task_waiting", "task_running", "task_held"}


async def test_many_claims_at_once_take_each_job_once(database: Database) -> None:
    wanted = [(step, f"task_{number:02}", START) for number in range(30) for step in (Step.RECONCILE, Step.COLLECT)]
    await database.write(enqueue(*wanted))

    async def take_all() -> list[Job]:
        taken: list[Job] = []
        while some := await claim(database, limit=4):
            taken += some
        return taken

    # Who meets only locked jobs takes none and looks again when it is woken.
    found = [job for batch in await asyncio.gather(*(take_all() for _ in range(20))) for job in batch]
    found += await claim(database, limit=60)

    assert len({job.id for job in found}) == len(found) == 60
    assert {(job.step, job.task_id) for job in found} == {(step, task_id) for step, task_id, _ in wanted}


async def test_a_finished_job_is_gone(database: Database) -> None:
    await database.write(enqueue((Step.DISPATCH, "task_1", START)))
    await finish(database, await claim(database))
    await database.write(release)

    assert await claimed(database, later(999)) == []


async def fail(database: Database, job: Job, at: datetime) -> None:
    await database.write(lambda connection: jobs.retry(connection, job, at, "KeyError"))


async def test_a_failed_job_runs_again_and_remembers_how_often_it_failed(database: Database) -> None:
    await database.write(enqueue((Step.DISPATCH, "task_1", START)))
    counts = []
    for number in range(3):
        job = await take(database, later(number))
        counts.append(job.failures)
        await fail(database, job, later(number + 1))

    assert counts == [0, 1, 2]
    assert await claimed(database, later(2.5)) == []


async def test_a_failed_job_whose_successor_waits_leaves_it_the_count(database: Database) -> None:
    await database.write(enqueue((Step.DISPATCH, "task_1", START)))
    job = await take(database)
    await database.write(enqueue((Step.DISPATCH, "task_1", later(1))))
    await fail(database, job, later(60))

    again = await take(database, later(1))
    assert again.failures == 1
    await finish(database, [again])
    assert await claimed(database, later(999)) == []


async def test_asking_again_for_a_job_that_failed_does_not_forget_its_failures(database: Database) -> None:
    await database.write(enqueue((Step.DISPATCH, "task_1", START)))
    await fail(database, await take(database), later(60))
    await database.write(enqueue((Step.DISPATCH, "task_1", later(1))))

    assert (await take(database, later(1))).failures == 1


async def test_a_job_set_aside_is_counted_and_does_not_run_but_the_task_goes_on(database: Database) -> None:
    await database.write(enqueue((Step.DISPATCH, "task_1", START)))
    job = await take(database)
    await database.write(lambda connection: jobs.dead_letter(connection, job, "KeyError"))
    await database.write(release)
    still = await claimed(database, later(999))
    await database.write(enqueue((Step.DISPATCH, "task_1", START)))

    assert len(await database.read(jobs.dead_letters)) == 1
    assert still == []
    assert await claimed(database) == [(Step.DISPATCH, "task_1")]


async def set_aside(database: Database, task_id: str) -> DeadLetter:
    await database.write(enqueue((Step.DISPATCH, task_id, START)))
    job = await take(database)
    await database.write(lambda connection: jobs.dead_letter(connection, job, "KeyError"))
    return (await database.read(jobs.dead_letters))[-1]


async def test_a_job_set_aside_says_what_it_was_and_why(database: Database) -> None:
    await database.write(enqueue((Step.DISPATCH, "task_1", START)))
    await fail(database, await take(database), START)
    again = await take(database)
    await database.write(lambda connection: jobs.dead_letter(connection, again, "KeyError"))
    (dead_letters,) = await database.read(jobs.dead_letters)

    assert (dead_letters.step, dead_letters.task_id, dead_letters.failures, dead_letters.error) == (
        Step.DISPATCH,
        "task_1",
        2,
        "KeyError",
    )


async def test_what_is_asked_for_while_the_last_try_fails_is_done_all_the_same(database: Database) -> None:
    await database.write(enqueue((Step.DISPATCH, "task_1", START)))
    job = await take(database)
    await database.write(enqueue((Step.DISPATCH, "task_1", later(1))))
    await database.write(lambda connection: jobs.dead_letter(connection, job, "KeyError"))

    assert len(await database.read(jobs.dead_letters)) == 1
    assert await claimed(database, later(1)) == [(Step.DISPATCH, "task_1")]


async def test_a_requeued_job_runs_as_if_it_had_never_failed_and_the_others_stay_aside(database: Database) -> None:
    first, second = [await set_aside(database, task_id) for task_id in ("task_1", "task_2")]
    count = await database.write(lambda connection: jobs.requeue(connection, [first.id, 999_999], START))
    again = await take(database)

    assert (count, again.task_id, again.failures) == (1, "task_1", 0)
    assert [dead_letters.id for dead_letters in await database.read(jobs.dead_letters)] == [second.id]


async def test_a_job_requeued_where_the_same_waits_already_is_done_once(database: Database) -> None:
    dead_letters = await set_aside(database, "task_1")
    await database.write(enqueue((Step.DISPATCH, "task_1", later(5))))
    await database.write(lambda connection: jobs.requeue(connection, [dead_letters.id], START))
    job = await take(database)
    await finish(database, [job])

    assert await claimed(database, later(9)) == []


async def test_a_waiting_job_is_not_requeued(database: Database) -> None:
    await database.write(enqueue((Step.DISPATCH, "task_1", later(5))))
    (left,) = [job.id for job in await claim(database, later(5))]

    assert await database.write(lambda connection: jobs.requeue(connection, [left], START)) == 0


async def test_how_the_jobs_of_each_step_stand(database: Database) -> None:
    await database.write(
        enqueue(
            (Step.COLLECT, "a", later(-9)),
            (Step.COLLECT, "b", later(-5)),
            (Step.COLLECT, "c", later(60)),
            (Step.RECONCILE, "a", later(60)),
            (Step.DISPATCH, "d", later(-99)),
        )
    )
    await database.write(lambda connection: jobs.claim(connection, ME, START, 9, {Step.DISPATCH}))
    backlogs = await database.read(lambda connection: jobs.backlogs(connection, START))

    assert set(backlogs) == set(Step)
    assert backlogs[Step.COLLECT] == Backlog(waiting=3, due=2, oldest_due=later(-9))
    assert backlogs[Step.RECONCILE] == Backlog(waiting=1)
    assert backlogs[Step.DISPATCH] == Backlog()


async def test_what_a_dead_process_was_running_is_runnable_again_with_its_failures(database: Database) -> None:
    await database.write(enqueue((Step.DISPATCH, "task_1", START), (Step.COLLECT, "task_2", START)))
    for job in await claim(database):
        await fail(database, job, later(1))
    lost = await claim(database, later(1))
    await database.write(enqueue((Step.COLLECT, "task_2", later(60))))
    await database.write(release)
    again = await claim(database, later(1))

    assert {(job.task_id, job.failures) for job in again} == {(job.task_id, 1) for job in lost}
    assert len(again) == 2
    await finish(database, again)
    assert await claimed(database, later(999)) == []


async def test_releasing_with_nothing_running_changes_nothing(database: Database) -> None:
    await database.write(enqueue((Step.DISPATCH, "task_1", later(1))))
    await database.write(release)

    assert await database.read(jobs.next_due) == later(1)


@pytest.mark.parametrize("what", ["enqueue", "finish", "retry"])
async def test_whoever_waits_for_work_is_told_when_there_may_be_some(database: Database, what: str) -> None:
    await database.write(enqueue((Step.DISPATCH, "task_1", START)))
    job = await take(database)
    units: dict[str, Callable[[Connection], Any]] = {
        "enqueue": enqueue((Step.DISPATCH, "task_2", START)),
        "finish": lambda connection: jobs.finish(connection, job),
        "retry": lambda connection: jobs.retry(connection, job, START, "KeyError"),
    }
    told = await signals_to(database)
    await database.write(units[what])
    await database.write(lambda _: None)

    assert told
