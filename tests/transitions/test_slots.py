"""The slots of an account as the provider sees them, and the effects of its answers 429, 402 and 503."""

from dataclasses import replace
from datetime import timedelta

import pytest

from app.db.tables import provider_accounts, tasks
from app.dispatch import dispatch
from app.provider import ProviderResponse
from app.rules.task import Report, Said, Status
from app.twin import Faults
from tests.calling import answering, small
from tests.rows import put_account
from tests.world import World

PRO, MAX = "flux-kontext-pro", "flux-kontext-max"
BUSY = ProviderResponse(Report(Said.BUSY, detail="Too many active tasks"), 429)
TAKEN = ProviderResponse(Report(Said.PENDING, "p1", cost=4.0), 200, {}, b'{"id": "p1"}')


async def posted_later(world: World) -> str:
    """Post a task slightly later than the earlier ones."""
    world.clock.advance(0.001)
    return await world.post()


@pytest.mark.proof
async def test_the_provider_never_sees_more_in_flight_than_it_allows(each_world: World) -> None:
    posted = [await each_world.post(model=MAX if number % 3 else PRO) for number in range(33)]
    await each_world.work()
    await each_world.go_on(16)
    ledger = each_world.ledger()

    assert {(await each_world.task(task_id))["status"] for task_id in posted} == {"stored"}
    assert ledger["max_in_flight"][MAX] == 6
    assert ledger["max_in_flight"]["account"] <= 24
    assert ledger["refused"] == []
    assert ledger["charged"] == 11 * 4 + 22 * 8


async def test_a_task_shows_its_queue_position_until_it_has_a_slot(each_world: World) -> None:
    await each_world.use.db.write(lambda connection: put_account(connection, account=1))
    first, second, third = [await posted_later(each_world) for _ in range(3)]
    urgent = await each_world.post(priority=9)
    places = [(await each_world.task(task_id))["queue"] for task_id in (first, urgent, second, third)]

    assert places[0] is None
    assert [place["position"] for place in places[1:]] == [1, 2, 3]


async def test_a_429_uses_no_try_and_pauses_the_account_as_requested(each_world: World) -> None:
    wait = ProviderResponse(BUSY.report._replace(retry_after=timedelta(seconds=40)), 429)
    provider = answering(wait, *[replace(TAKEN, report=Report(Said.PENDING, f"p{n}")) for n in range(2)])
    each_world.use = replace(each_world.use, provider=provider)
    first = await each_world.post()
    await each_world.work()
    second = await posted_later(each_world)
    await each_world.go_on(39)
    asked_before, place = len(provider.orders), (await each_world.task(second))["queue"]
    await each_world.go_on(2)

    assert asked_before == 1
    assert (place["position"], place["pause_reason"]) == (2, "the provider has no free slot")
    assert place["paused_until_at"] == "2026-01-01T12:00:40Z"
    assert len(provider.orders) == 3
    task = await each_world.use.db.read(lambda connection: tasks.get(connection, first))
    assert task is not None
    assert (task.status, task.tries) == (Status.SUBMITTED, 0)


async def test_without_retry_after_the_pause_grows_until_a_task_is_accepted(world: World) -> None:
    provider = answering(*[BUSY] * 7, TAKEN)
    world.use = replace(world.use, provider=provider)
    await world.post()
    pauses = []
    for _ in range(7):
        await world.work()
        account = await world.use.db.read(lambda connection: provider_accounts.get(connection, "account"))
        assert account is not None
        assert account.paused_until_at is not None
        pauses.append((account.paused_until_at - world.clock()).total_seconds())
        world.clock.advance(pauses[-1])
    await world.work()
    account = await world.use.db.read(lambda connection: provider_accounts.get(connection, "account"))

    assert pauses == [1, 2, 4, 8, 16, 30, 30]
    assert account is not None
    assert (account.refusals, account.paused_until_at, account.pause_reason) == (0, None, None)


@pytest.mark.proof
async def test_refusals_of_simultaneous_tasks_count_once(each_world: World) -> None:
    """24 answers of 429 to one burst count as one refusal: the next try is after a second, not after 30."""
    posted = [await each_world.post() for _ in range(24)]
    each_world.twin.faults = Faults(submit_429=1)
    await each_world.work()
    each_world.twin.faults = Faults()
    await each_world.go_on(8)

    assert len(each_world.ledger()["refused"]) == 24
    assert {(await each_world.task(task_id))["status"] for task_id in posted} == {"stored"}


async def test_a_pause_continues_if_a_task_sent_before_it_is_accepted(world: World) -> None:
    wait = ProviderResponse(BUSY.report._replace(retry_after=timedelta(seconds=40)), 429)
    provider = answering(wait, TAKEN)
    world.use = replace(world.use, provider=provider)
    await world.post()
    await world.post()
    await world.work()
    third = await posted_later(world)
    await world.go_on(30)

    assert len(provider.orders) == 2
    assert (await world.task(third))["queue"]["position"] == 2


async def test_an_early_admit_job_waits_for_the_extended_pause(each_world: World) -> None:
    """The job of the task that was refused first runs during a pause that another refusal has extended."""
    short = ProviderResponse(BUSY.report._replace(retry_after=timedelta(seconds=5)), 429)
    long = ProviderResponse(BUSY.report._replace(retry_after=timedelta(seconds=20)), 429)
    provider = answering(short, long, TAKEN, replace(TAKEN, report=Report(Said.PENDING, "p2")))
    each_world.use = replace(each_world.use, provider=provider)
    posted = [await each_world.post() for _ in range(2)]
    await each_world.work()
    await each_world.go_on(19)
    asked = len(provider.orders)
    await each_world.go_on(2)

    assert asked == 2
    assert {(await each_world.task(task_id))["status"] for task_id in posted} == {"submitted"}


async def test_an_account_out_of_credits_is_paused_visibly_and_resumes_after_a_top_up(each_world: World) -> None:
    small(each_world)
    each_world.twin.rules = each_world.twin.rules.model_copy(update={"credits": 4})
    first, second = await each_world.post(), await each_world.post()
    await each_world.go_on(6)
    waiting = await each_world.task(second)
    notes = (await each_world.outsider.get("/readyz")).json()["notes"]
    each_world.twin.rules = each_world.twin.rules.model_copy(update={"credits": 100})
    await each_world.go_on(40)

    assert (await each_world.task(first))["status"] == "stored"
    assert (waiting["status"], waiting["queue"]["pause_reason"]) == ("queued", "out of credits")
    assert len(notes) == 1
    assert "out of credits" in notes[0]
    assert (await each_world.task(second))["status"] == "stored"
    assert (await each_world.outsider.get("/readyz")).json()["notes"] == []
    assert each_world.ledger()["charged"] == 8


async def test_a_task_without_a_slot_is_never_sent(world: World) -> None:
    await world.use.db.write(lambda connection: put_account(connection, account=1))
    await world.post()
    second = await world.post()
    await dispatch(world.use, second)

    assert world.ledger()["accepted"] == 0
    assert (await world.task(second))["status"] == "queued"


@pytest.mark.parametrize("outage", [500, 502, 503])
async def test_an_outage_delays_its_task_and_not_the_account(world: World, outage: int) -> None:
    down = ProviderResponse(Report(Said.DOWN, detail=f"HTTP {outage}"), outage)
    provider = answering(down, TAKEN, replace(TAKEN, report=Report(Said.PENDING, "p2")))
    world.use = replace(world.use, provider=provider)
    first, second = await world.post(), await world.post()
    await world.work()
    states = [(await world.task(task_id))["status"] for task_id in (first, second)]
    await world.go_on(2)

    assert states == ["queued", "submitted"]
    assert (await world.task(first))["status"] == "submitted"
