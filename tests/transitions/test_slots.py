"""The slots of an account as the provider sees them, and the effects of its answers 429, 402 and 503."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from email.utils import format_datetime

import httpx
import pytest

from app import clock
from app.db.tables import provider_accounts, slots, tasks
from app.dispatch import dispatch
from app.provider import Provider, ProviderResponse, ProviderSpec, Reference, SubmitRequest
from app.rules.task import Failure, Report, Said, Status
from app.twin import Faults, Rules
from app.worker import loop
from tests.calling import answering, small
from tests.rows import put_account
from tests.world import World, provider_of, with_provider

PRO, MAX = "flux-kontext-pro", "flux-kontext-max"
BUSY = ProviderResponse(Report(Said.BUSY, detail="Too many active tasks"), 429)
TAKEN = ProviderResponse(Report(Said.PENDING, "p1", cost=4.0), 200, {}, b'{"id": "p1"}')


@dataclass
class Passing:
    """A provider whose submissions go through a function of the test."""

    submitting: Callable[[SubmitRequest], Awaitable[ProviderResponse]]
    provider: Provider

    @property
    def spec(self) -> ProviderSpec:
        return self.provider.spec

    async def submit(self, order: SubmitRequest) -> ProviderResponse:
        return await self.submitting(order)

    async def fetch(self, reference: Reference) -> ProviderResponse:
        return await self.provider.fetch(reference)

    async def credits(self) -> ProviderResponse:
        return await self.provider.credits()

    async def reachable(self) -> str | None:
        return await self.provider.reachable()


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
    each_world.use = with_provider(each_world.use, provider)
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
    world.use = with_provider(world.use, provider)
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
    world.use = with_provider(world.use, provider)
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
    each_world.use = with_provider(each_world.use, provider)
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
    notes = (await each_world.api.get("/readyz")).json()["notes"]
    each_world.twin.rules = each_world.twin.rules.model_copy(update={"credits": 100})
    await each_world.go_on(40)

    assert (await each_world.task(first))["status"] == "stored"
    assert (waiting["status"], waiting["queue"]["pause_reason"]) == ("queued", "out of credits")
    assert len(notes) == 1
    assert "out of credits" in notes[0]
    assert (await each_world.task(second))["status"] == "stored"
    assert (await each_world.api.get("/readyz")).json()["notes"] == []
    assert each_world.ledger()["charged"] == 8


@pytest.mark.parametrize("status", [301, 307, 521, 523, 525, 526, 530])
async def test_an_answer_that_is_surely_no_acceptance_frees_the_slot_and_the_task_is_sent_again(
    world: World, status: int
) -> None:
    small(world)
    world.twin.faults = Faults(submit_gateway=1, gateway_status=status)
    task_id = await world.post()
    await world.work()
    after = await world.use.db.read(lambda connection: slots.of_accounts(connection, "account"))
    waiting = await world.task(task_id)
    await world.go_on(10)
    refused = len(world.ledger()["refused"])
    world.twin.faults = Faults()
    await world.go_on(30)

    assert (waiting["status"], after) == ("queued", [])
    assert 3 <= refused <= 5
    assert (await world.task(task_id))["status"] == "stored"
    assert world.ledger()["charged"] == 4


async def test_a_429_with_a_date_pauses_the_account_until_then(world: World) -> None:
    """The date is compared with the clock of this machine, not with the one of the test."""
    at = clock.utc_now() + timedelta(minutes=2)
    headers = {"retry-after": format_datetime(at, usegmt=True)}
    world.network.hosts["twin"] = httpx.MockTransport(lambda _: httpx.Response(429, headers=headers))
    await world.post()
    await world.work()
    account = await world.use.db.read(lambda connection: provider_accounts.get(connection, "account"))

    assert account is not None
    assert account.paused_until_at is not None
    assert timedelta(minutes=1) < account.paused_until_at - world.clock() <= timedelta(minutes=2)


REFUSALS = {
    "key refused": (Rules(keys_revoked=True, megapixels=0.02), Faults(), provider_accounts.KEY_REFUSED, 30),
    "blocked": (Rules(megapixels=0.02), Faults(submit_gateway=1), provider_accounts.BLOCKED, 5),
}


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_an_account_that_refuses_every_task_is_probed_with_one_of_them_and_fails_none(
    each_world: World, refusal: str
) -> None:
    rules, faults, reason, first_pause = REFUSALS[refusal]
    each_world.twin.rules, each_world.twin.faults = rules, faults
    posted = [await posted_later(each_world) for _ in range(2)]
    await each_world.work()
    posted += [await posted_later(each_world) for _ in range(8)]
    refused = [len(each_world.ledger()["refused"])]
    for number in range(3):
        await each_world.go_on(first_pause * 2**number + 1)
        refused.append(len(each_world.ledger()["refused"]))
    waiting = [await each_world.task(task_id) for task_id in posted]
    readiness = await each_world.api.get("/readyz")
    each_world.twin.rules, each_world.twin.faults = Rules(megapixels=0.02), Faults()
    await each_world.go_on(first_pause * 8 + 20)

    assert refused == [2, 3, 4, 5]
    assert {(task["status"], task["queue"]["pause_reason"]) for task in waiting} == {("queued", reason)}
    assert readiness.status_code == 200
    assert [note.partition(": ")[2] for note in readiness.json()["notes"]] == [reason]
    assert {(await each_world.task(task_id))["status"] for task_id in posted} == {"stored"}
    assert each_world.ledger()["charged"] == 10 * 4


async def test_a_task_that_is_refused_while_others_are_accepted_fails_and_delays_them_little(world: World) -> None:
    small(world)

    provider = provider_of(world.use)
    submit = provider.submit

    async def a_firewall(order: SubmitRequest) -> ProviderResponse:
        if order.params["prompt"] == "<script>":
            return ProviderResponse(Report(Said.BLOCKED, failure=Failure.PROVIDER_ERROR, detail="HTTP 403"), 403)
        return await submit(order)

    world.use = with_provider(world.use, Passing(a_firewall, provider))
    blocked = await world.post(prompt="<script>", priority=9)
    posted = []
    for _ in range(30):
        posted.append(await world.post())
        await world.go_on(10)
    task = await world.task(blocked)
    states = [(await world.task(task_id))["status"] for task_id in posted[:-2]]

    assert (task["status"], task["failure"]["code"], task["failure"]["money_spent"]) == (
        "failed",
        "provider_error",
        "no",
    )
    assert set(states) == {"stored"}


async def test_a_probe_without_an_answer_is_followed_by_another(world: World) -> None:
    refused = ProviderResponse(Report(Said.KEY_REFUSED, failure=Failure.PROVIDER_REJECTED), 401)
    provider = answering(refused, ProviderResponse(Report(Said.LOST)), TAKEN)
    world.use = with_provider(world.use, provider)
    await world.post()
    await world.work()
    await posted_later(world)
    await world.go_on(31)
    after_the_pause = len(provider.orders)
    await world.go_on(68)
    before_the_timeout = len(provider.orders)
    await world.go_on(3)

    assert (after_the_pause, before_the_timeout, len(provider.orders)) == (2, 2, 3)


async def test_after_a_restart_an_account_with_a_refused_key_is_probed_at_once(world: World) -> None:
    small(world)
    world.twin.rules = world.twin.rules.model_copy(update={"keys_revoked": True})
    posted = [await world.post() for _ in range(3)]
    await world.work()
    await world.go_on(200, 5)
    world.twin.rules = world.twin.rules.model_copy(update={"keys_revoked": False})
    await loop.start(world.use)
    await world.work()
    states = {(await world.task(task_id))["status"] for task_id in posted}

    assert states == {"submitted"}


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
    world.use = with_provider(world.use, provider)
    first, second = await world.post(), await world.post()
    await world.work()
    states = [(await world.task(task_id))["status"] for task_id in (first, second)]
    await world.go_on(2)

    assert states == ["queued", "submitted"]
    assert (await world.task(first))["status"] == "submitted"
