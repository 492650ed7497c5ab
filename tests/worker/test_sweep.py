"""The sweep: deadlines, expired rows, and work without a job, which is rescheduled and counted."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from app import jobs
from app.db import Connection
from app.db.engine.database import Database
from app.db.queries import queue
from app.db.tables import budget_periods, idempotency_keys, provider_accounts, slots, tasks
from app.db.tables.budget_periods import ALL, PeriodId
from app.jobs import NewJob, Step
from app.provider import ProviderResponse, SubmitRequest
from app.rules.budget import Period
from app.rules.task import Failure, Report, Said, Status
from app.telemetry import metrics
from app.transitions import moves
from app.transitions.admit import BACKOFFS, admit
from app.twin import Faults
from app.worker.sweep import EVERY, NO_TASK, orphaned, refused_for_a_day, sweep
from tests.calling import Scripted, done, small, submitted
from tests.databases import OneByOne
from tests.rows import START, drop_jobs, newest_tasks, plan_task, put_account, take_slot
from tests.world import World, open_world, with_provider

T = TypeVar("T")
HOUR = 3600


def counted() -> float:
    return metrics.REGISTRY.get_sample_value("fluxhook_orphaned_tasks_recovered_total") or 0


async def sweeping(world: World) -> None:
    """Start the sweep, as every running worker does."""
    wanted = [NewJob(Step.SWEEP, NO_TASK, world.clock())]
    await world.use.db.write(lambda connection: jobs.enqueue(connection, wanted))


async def lose_jobs(world: World) -> None:
    await world.use.db.write(drop_jobs)


@pytest.mark.parametrize("state", ["queued", "submitting", "submitted", "ready"])
async def test_a_task_without_its_job_is_rescheduled_and_counted(each_world: World, state: str) -> None:
    small(each_world)
    if state == "queued":
        task_id = await each_world.post()
    else:
        caller = await submitted(each_world, faults=Faults(lose_answer_after=float(state == "submitting")))
        task_id = caller.task_id
        if state == "ready":
            await done(each_world)
    assert (await each_world.task(task_id))["status"] == state
    await lose_jobs(each_world)
    before = counted()
    with capture_logs() as logs:
        await sweep(each_world.use)
    each_world.twin.faults = Faults()
    await each_world.go_on(60)
    (line,) = [line for line in logs if line["event"] == "unscheduled"]

    assert (await each_world.task(task_id))["status"] == "stored"
    assert counted() - before == 1
    assert (line["log_level"], line["task_ids"]) == ("error", [task_id])
    assert each_world.ledger()["accepted"] == 1


async def test_a_final_task_needs_no_job(each_world: World) -> None:
    caller = await submitted(each_world, faults=Faults())
    await each_world.go_on(5)
    await lose_jobs(each_world)
    before = counted()
    await sweep(each_world.use)
    left = await each_world.use.db.read(lambda connection: jobs.scheduled(connection, Step.COLLECT, {caller.task_id}))

    assert (counted() - before, left) == (0, set())


async def test_queued_tasks_with_a_missed_admission_are_admitted_and_counted(each_world: World) -> None:
    await each_world.use.db.write(lambda connection: put_account(connection, account=1))
    first, second = await each_world.post(), await each_world.post()
    await each_world.use.db.write(lambda connection: slots.release(connection, [first]))
    await lose_jobs(each_world)
    before = counted()
    await sweep(each_world.use)
    soon = counted() - before
    each_world.clock.advance(31)
    await sweep(each_world.use)
    admitted = await each_world.use.db.read(queue.admitted)

    assert soon == 0
    assert counted() - before == 1
    assert admitted < {first, second}
    assert len(admitted) == 1


async def test_a_probe_that_the_sweep_admits_has_its_full_time_to_be_answered(each_world: World) -> None:
    """A probe counts as lost after 70 seconds."""
    await each_world.use.db.write(lambda connection: put_account(connection, account=2))
    posted = {await each_world.post() for _ in range(2)}
    paused_until = each_world.clock() + timedelta(seconds=1)

    def miss_the_end_of_a_pause(connection: Connection) -> None:
        slots.release(connection, posted)
        provider_accounts.pause(
            connection, "account", each_world.clock(), paused_until, provider_accounts.OUT_OF_CREDITS, 1
        )

    await each_world.use.db.write(miss_the_end_of_a_pause)
    await lose_jobs(each_world)
    each_world.clock.advance(40)
    await sweep(each_world.use)
    dispatches = await each_world.use.db.read(lambda connection: jobs.backlogs(connection, each_world.clock()))
    admitted_at = each_world.clock()
    each_world.clock.advance(60)
    early = await each_world.use.db.write(admit, each_world.clock())
    each_world.clock.advance(11)
    late = await each_world.use.db.write(admit, each_world.clock())

    assert dispatches[Step.DISPATCH].oldest_due == admitted_at
    assert (len(early), len(late)) == (0, 1)


async def test_on_postgresql_a_task_that_another_process_admits_is_not_counted(
    tmp_path: Path, postgres_url: str
) -> None:
    blocked = text("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted), pg_sleep(0.01)")
    async with asyncio.timeout(120), open_world(tmp_path, postgres_url) as world:
        await world.use.db.write(lambda connection: put_account(connection, account=1))
        first, second = [await world.post() for _ in range(2)]
        world.clock.advance(60)
        before, handed_on = counted(), asyncio.Event()

        def hand_on(connection: Connection) -> None:
            moves.cancel(connection, first, world.clock())
            handed_on.set()
            while not connection.execute(blocked).one()[0]:
                pass

        handing_on = asyncio.create_task(world.use.db.write(hand_on))
        await handed_on.wait()
        await sweep(world.use)
        await handing_on
        admitted = await world.use.db.read(queue.admitted)

    assert admitted == {second}
    assert counted() == before


async def test_a_sweep_enqueues_the_next_one(each_world: World) -> None:
    await sweep(each_world.use)

    assert await each_world.use.db.read(jobs.next_due) == each_world.clock() + EVERY


FAULTS = [
    Faults(),
    Faults(drop_callback=0.3, submit_429=0.3, submit_5xx=0.3, lose_answer_after=0.2, status_5xx=0.3, seed=1),
    Faults(unsigned_callback=0.5, forge_callback=0.3, refused_link=0.5, delay_callback=0.3, seed=2),
]


@pytest.mark.proof
@pytest.mark.parametrize("faults", FAULTS, ids=["none", "refusals", "callbacks"])
async def test_no_orphan_is_counted_in_a_healthy_run_with_any_provider_fault(each_world: World, faults: Faults) -> None:
    small(each_world)
    each_world.twin.faults = faults
    await each_world.use.db.write(lambda connection: put_account(connection, account=3))
    await sweeping(each_world)
    before = counted()
    posted = [await each_world.post() for _ in range(15)]
    await each_world.go_on(300, 2)  # a 429 lowers the limit for two minutes
    states = {(await each_world.task(task_id))["status"] for task_id in posted}

    assert counted() == before
    assert states <= {"stored", "submitting"}
    assert each_world.ledger()["accepted"] == len(posted)
    assert each_world.ledger()["max_in_flight"]["account"] <= 3


async def test_tasks_of_a_paused_account_are_not_counted(each_world: World) -> None:
    each_world.twin.rules = each_world.twin.rules.model_copy(update={"credits": 0})
    await sweeping(each_world)
    before = counted()
    posted = [await each_world.post() for _ in range(3)]
    await each_world.go_on(1200, 40)

    assert counted() == before
    assert {(await each_world.task(task_id))["status"] for task_id in posted} == {"queued"}


async def test_a_task_waits_a_day_for_credits_and_no_longer(each_world: World) -> None:
    each_world.twin.rules = each_world.twin.rules.model_copy(update={"credits": 0})
    await sweeping(each_world)
    task_id = await each_world.post()
    await each_world.work()
    await each_world.go_on(23 * HOUR, HOUR)
    before = (await each_world.task(task_id))["status"]
    each_world.clock.advance(HOUR)
    late = await each_world.post()
    await each_world.go_on(60, 10)
    task = await each_world.task(task_id)

    assert before == "queued"
    assert (task["status"], task["failure"]["code"], task["failure"]["money_spent"]) == (
        "failed",
        "out_of_credits",
        "no",
    )
    assert (await each_world.task(late))["status"] == "queued"
    assert each_world.ledger()["accepted"] == 0


@pytest.mark.parametrize(
    ("reason", "since_h", "asked_h", "ended"),
    [
        (provider_accounts.OUT_OF_CREDITS, 25, 1, True),
        (provider_accounts.OUT_OF_CREDITS, 24, 0, True),
        (provider_accounts.OUT_OF_CREDITS, 23, 0, False),
        (provider_accounts.OUT_OF_CREDITS, 24, 1, False),
        (provider_accounts.KEY_REFUSED, 24, 0, True),
        (provider_accounts.KEY_REFUSED, 23, 0, False),
        (provider_accounts.BLOCKED, 24, 0, True),
    ],
)
async def test_the_tasks_that_end_are_the_old_ones_of_an_account_that_refuses_a_day_after_it_did_first(
    database: Database, reason: str, since_h: float, asked_h: float, ended: bool
) -> None:
    """The last refusal of all makes the pause, the first one says since when."""

    def unit(connection: Connection) -> list[str]:
        put_account(connection)
        for at in (START - timedelta(hours=since_h), START - timedelta(hours=asked_h)):
            provider_accounts.pause(connection, "account", at, at + BACKOFFS[reason].longest, reason, 9)
        for name, age_h in (("old", 24), ("young", 23)):
            plan_task(connection, name, START - timedelta(hours=asked_h + age_h))
        return refused_for_a_day(connection, START - timedelta(hours=asked_h), reason=reason)

    assert await database.write(unit) == (["task_old"] if ended else [])


async def test_a_day_of_refusals_for_different_reasons_ends_no_task(database: Database) -> None:
    def unit(connection: Connection) -> list[str]:
        put_account(connection)
        plan_task(connection, "old", START - timedelta(hours=30))
        for hours, reason in ((25, provider_accounts.OUT_OF_CREDITS), (0, provider_accounts.KEY_REFUSED)):
            at = START - timedelta(hours=hours)
            provider_accounts.pause(connection, "account", at, at + BACKOFFS[reason].longest, reason, 9)
        return refused_for_a_day(connection, START, reason=provider_accounts.KEY_REFUSED)

    assert await database.write(unit) == []


@pytest.mark.parametrize(
    ("said", "reason", "failure"),
    [
        (Said.KEY_REFUSED, provider_accounts.KEY_REFUSED, "provider_rejected"),
        (Said.BLOCKED, provider_accounts.BLOCKED, "provider_error"),
    ],
)
async def test_tasks_that_the_account_refuses_for_a_day_fail_and_cost_nothing(
    world: World, said: Said, reason: str, failure: str
) -> None:
    async def refusing(_: SubmitRequest) -> ProviderResponse:
        return ProviderResponse(Report(said, failure=Failure(failure), detail="no"), 403)

    world.use = with_provider(world.use, Scripted(refusing))
    unscheduled = counted()
    await sweeping(world)
    posted = [await world.post() for _ in range(3)]
    await world.go_on(23 * HOUR, 900)
    before = [await world.task(task_id) for task_id in posted]
    await world.go_on(2 * HOUR, 900)
    await world.go_on(60, 10)
    after = [await world.task(task_id) for task_id in posted]

    assert [(task["status"], task["queue"]["pause_reason"]) for task in before] == [("queued", reason)] * 3
    assert [(task["failure"]["code"], task["failure"]["money_spent"]) for task in after] == [(failure, "no")] * 3
    assert counted() == unscheduled


async def test_a_topped_up_account_loses_no_task_before_its_next_submission(each_world: World) -> None:
    """Whether it was within a try's ten minutes, or while the service was away."""
    rules = each_world.twin.rules
    each_world.twin.rules = rules.model_copy(update={"credits": 0})
    task_id = await each_world.post()
    await each_world.work()
    each_world.clock.advance(48 * HOUR)
    each_world.twin.rules = rules
    await sweep(each_world.use)
    await each_world.go_on(60)

    assert (await each_world.task(task_id))["status"] == "stored"


class ToppedUp(OneByOne):
    """A database in which the account is topped up as soon as the first of 120 tasks have failed."""

    def __init__(self, inner: Database, at: datetime) -> None:
        self._inner = inner
        self._at = at
        self.dialect, self.read = inner.dialect, inner.read
        self.on_jobs, self.on_events = inner.on_jobs, inner.on_events

    async def write(self, work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        result = await self._inner.write(work, *args, **kwargs)
        if (await self._inner.read(tasks.count_open))[Status.QUEUED] < 120:
            await self._inner.write(provider_accounts.resume, "account", self._at)
        return result


async def test_topping_up_while_tasks_are_failed_saves_the_remaining_ones(each_world: World) -> None:
    now = each_world.clock()

    def crowd(connection: Connection) -> None:
        for number in range(120):
            plan_task(connection, f"{number}", now - timedelta(hours=25))
        for at in (now - timedelta(hours=25), now):
            provider_accounts.pause(
                connection, "account", at, at + timedelta(minutes=10), provider_accounts.OUT_OF_CREDITS, 9
            )

    await each_world.use.db.write(crowd)
    await sweep(replace(each_world.use, db=ToppedUp(each_world.use.db, now + timedelta(hours=1))))
    left = await each_world.use.db.read(tasks.count_open)

    assert 0 < left[Status.QUEUED] < 120


async def test_periods_of_budgets_are_pruned_long_after_their_end(each_world: World) -> None:
    now = each_world.clock.at
    periods = [PeriodId(ALL, Period.MONTH, now - timedelta(days=days)) for days in (0, 99, 101)]

    def spend(connection: Connection) -> None:
        for period in periods:
            budget_periods.create(connection, period, 4)

    await each_world.use.db.write(spend)
    await sweep(each_world.use)
    left = await each_world.use.db.read(lambda connection: budget_periods.read(connection, periods))

    assert left == {periods[0]: 4, periods[1]: 4}


async def test_idempotent_answers_are_pruned_after_a_day(each_world: World) -> None:
    def remember(connection: Connection) -> None:
        for name, age in (("old", timedelta(hours=24, seconds=1)), ("young", timedelta(hours=24))):
            idempotency_keys.begin(connection, "key_1", name, "d", each_world.clock() - age)

    await each_world.use.db.write(remember)
    await sweep(each_world.use)
    left = await each_world.use.db.read(
        lambda connection: [name for name in ("old", "young") if idempotency_keys.get(connection, "key_1", name)]
    )

    assert left == ["young"]


async def test_a_deadline_frees_the_slot_of_a_task_that_was_about_to_be_sent(each_world: World) -> None:
    await each_world.use.db.write(lambda connection: put_account(connection, account=1))
    first = await each_world.post(deadline_at="2026-01-01T12:00:10Z")
    second = await each_world.post()
    each_world.clock.advance(10)
    await sweep(each_world.use)
    await each_world.work()

    assert (await each_world.task(first))["failure"]["code"] == "deadline_exceeded"
    assert (await each_world.task(second))["status"] == "submitted"


async def test_a_queue_with_a_due_admit_job_is_not_counted(world: World) -> None:
    small(world)
    world.twin.faults = Faults(submit_429=1)
    task_id = await world.post()
    await world.work()
    world.twin.faults = Faults()
    world.clock.advance(60)  # the service was down
    before = counted()
    await sweep(world.use)
    await world.work()

    assert counted() == before
    assert (await world.task(task_id))["status"] == "submitted"


@pytest.mark.parametrize("status", [Status.READY, Status.STORED, Status.FAILED, Status.CANCELLED])
async def test_a_slot_of_a_task_that_may_have_none_is_freed_and_counted(each_world: World, status: Status) -> None:
    def leak(connection: Connection) -> None:
        put_account(connection, account=1)
        plan_task(connection, "over", each_world.clock(), status=status)
        take_slot(connection, "over")
        jobs.enqueue(connection, [NewJob(Step.COLLECT, "task_over", each_world.clock())])

    await each_world.use.db.write(leak)
    waiting = await each_world.post()
    each_world.clock.advance(31)
    before = counted()
    await sweep(each_world.use)

    assert await each_world.use.db.read(queue.admitted) == {waiting}
    assert counted() - before == 2  # the slot, and the task whose admission was missed


async def test_many_tasks_past_their_deadline_are_ended_in_batches(each_world: World) -> None:
    def crowd(connection: Connection) -> None:
        for number in range(120):
            plan_task(connection, f"{number}", each_world.clock(), deadline_at=each_world.clock())

    await each_world.use.db.write(crowd)
    ended: list[int] = []

    def count(connection: Connection) -> None:
        ended.append(tasks.count_open(connection)[Status.QUEUED])

    sweeping = asyncio.create_task(sweep(each_world.use))
    while not sweeping.done():
        await each_world.use.db.read(count)
    await sweeping
    states = {task.status for task in await each_world.use.db.read(lambda found: newest_tasks(found, 200))}

    assert states == {Status.FAILED}
    assert len(set(ended) - {120, 0}) >= 1  # others see it between two of its transactions


async def test_a_task_past_its_deadline_ends_and_is_not_counted(each_world: World) -> None:
    task_id = await each_world.post(deadline_at="2026-01-01T12:00:10Z")
    each_world.clock.advance(10)
    before = counted()
    await each_world.work()
    task = await each_world.task(task_id)
    await sweep(each_world.use)

    assert (task["status"], task["failure"]["code"], task["failure"]["money_spent"]) == (
        "failed",
        "deadline_exceeded",
        "no",
    )
    assert counted() == before
    assert each_world.ledger()["accepted"] == 0


async def test_a_resubmitted_task_waits_another_day_for_credits(each_world: World) -> None:
    each_world.twin.rules = each_world.twin.rules.model_copy(update={"credits": 0})
    await sweeping(each_world)
    task_id = await each_world.post()
    await each_world.work()
    await each_world.go_on(24 * HOUR, HOUR)
    await each_world.go_on(60, 10)
    failed = (await each_world.task(task_id))["status"]
    await each_world.api.post(f"/v1/tasks/{task_id}/resubmit")
    await each_world.go_on(60, 10)
    waiting = (await each_world.task(task_id))["status"]
    each_world.twin.rules = each_world.twin.rules.model_copy(update={"credits": 1000})
    await each_world.go_on(3600, 60)

    assert (failed, waiting) == ("failed", "queued")
    assert (await each_world.task(task_id))["status"] == "stored"


async def test_a_task_that_is_not_sent_because_its_key_was_revoked_is_not_missing_a_job(each_world: World) -> None:
    """It keeps its slot until the sweep cancels it, and a sweep may have passed it in the moment of the revocation."""
    made = (await each_world.api.post("/v1/keys", json={"name": "shop"})).json()
    shop = {"x-key": made["key"]}
    posted = await each_world.outsider.post("/v1/tasks", json={"prompt": "a red fox"}, headers=shop)
    await each_world.api.delete(f"/v1/keys/{made['id']}")
    await each_world.use.db.write(jobs.drop, Step.SWEEP, {NO_TASK})
    await each_world.work()

    assert (await each_world.task(posted.json()["id"]))["status"] == "queued"
    assert await each_world.use.db.read(orphaned) == []
    await sweep(each_world.use)
    assert (await each_world.task(posted.json()["id"]))["status"] == "cancelled"
