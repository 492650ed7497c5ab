"""Flaws that lose an image or spend money twice; `test_receiving.py` explains how they replace real code."""

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime

import httpx
import pytest
from sqlalchemy import Connection, false, select, update

import app.settle as settle_module
from app import jobs
from app.db.queries import apply_changes
from app.dispatch import dispatch
from app.jobs import Job, Step
from app.jobs.sqlite import jobs as jobs_table
from app.provider import Provider, ProviderResponse, ProviderSpec, Reference, SubmitRequest
from app.rules.task import AttemptState, Decision, Report, Said, Status, Witness, decide
from app.twin import Faults, Rules
from tests.calling import caller_of, done, small, submitted
from tests.flaws.deliveries import Worlds, status_of
from tests.world import TWIN, World, provider_of, with_provider

# 4. No check for final states.


async def a_final_state_is_final(world: World) -> None:
    caller = await submitted(world)
    await done(world)
    ready = caller.ready()
    await caller.call({"id": ready["id"], "status": "Error"})
    await caller.call(ready)
    await world.work()
    assert await status_of(world, caller) == "failed"


def decide_in_any_state(
    state: AttemptState, report: Report, witness: Witness, now: datetime, *, proven: bool
) -> Decision:
    open_again = state._replace(status=Status.SUBMITTED) if state.status.final else state
    return decide(open_again, report, witness, now, proven=proven)


async def test_a_missing_check_for_final_states_is_caught(worlds: Worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    async with worlds() as world:
        await a_final_state_is_final(world)
    monkeypatch.setattr(settle_module, "decide", decide_in_any_state)
    async with worlds() as world:  # the condition in SQL still prevents it
        await a_final_state_is_final(world)
    monkeypatch.setattr(apply_changes, "IS_FINAL", false())
    apply_changes._statement.cache_clear()
    monkeypatch.setattr(apply_changes, "_statement", apply_changes._statement.__wrapped__)
    async with worlds() as world:
        with pytest.raises(AssertionError, match="stored"):
            await a_final_state_is_final(world)


# 5. Resend on timeout.


async def a_lost_answer_is_charged_once(world: World, flaw: Callable[[Provider], Provider]) -> None:
    small(world)
    world.twin.faults = Faults(lose_answer_after=1)
    task_id = await world.post()
    await dispatch(with_provider(world.use, flaw(provider_of(world.use))), task_id)
    await world.go_on(5)
    assert await status_of(world, await caller_of(world, task_id)) == "stored"
    assert (world.ledger()["accepted"], world.ledger()["charged"]) == (1, 4)


@dataclass
class Resends:
    """Resends when no answer arrives."""

    inner: Provider

    @property
    def spec(self) -> ProviderSpec:
        return self.inner.spec

    async def submit(self, request: SubmitRequest) -> ProviderResponse:
        answer = await self.inner.submit(request)
        return await self.inner.submit(request) if answer.report.said is Said.LOST else answer

    async def fetch(self, reference: Reference) -> ProviderResponse:
        return await self.inner.fetch(reference)

    async def credits(self) -> ProviderResponse:
        return await self.inner.credits()

    async def reachable(self) -> str | None:
        return await self.inner.reachable()


async def test_sending_again_after_a_timeout_is_caught(worlds: Worlds) -> None:
    async with worlds() as world:
        await a_lost_answer_is_charged_once(world, lambda provider: provider)
    async with worlds() as world:
        with pytest.raises(AssertionError, match="8"):
            await a_lost_answer_is_charged_once(world, Resends)


# 8. Slot freed at submit.

ROOMY = Rules(megapixels=0.02, slots={"flux-kontext-pro": 100, "flux-kontext-max": 100}, account_slots=100)


async def the_limits_of_slots_are_kept(world: World) -> None:
    for model, number in (("flux-kontext-max", 8), ("flux-kontext-pro", 22)):
        for _ in range(number):
            await world.post(model=model)
    await world.work()
    in_flight = world.ledger()["max_in_flight"]
    assert (in_flight["flux-kontext-max"], in_flight["account"]) == (6, 24)


async def test_freeing_a_slot_at_submission_is_caught(worlds: Worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    async with worlds(ROOMY) as world:
        await the_limits_of_slots_are_kept(world)
    monkeypatch.setattr(settle_module, "_SLOTLESS", settle_module._SLOTLESS | {Status.SUBMITTED})
    async with worlds(ROOMY) as world:
        with pytest.raises(AssertionError, match="30"):
            await the_limits_of_slots_are_kept(world)


# 9. Expiry of links ignored.


async def the_link_that_expires_first_is_downloaded_first(world: World) -> None:
    callers = []
    for life in (600, 600, 7):
        faults = Faults(drop_callback=1, expired_link=1, near_expiry_s=life)
        callers.append(await submitted(world, faults=faults))
    await done(world)
    for caller, task in zip(callers, list(world.twin.tasks.values()), strict=True):
        sample = {"sample": world.twin.links.url(TWIN, task), "prompt": "a red fox"}
        await caller.call({"id": task.id, "status": "Ready", "result": sample})
    world.network.hosts["twin"] = Slow(world, world.network.hosts["twin"])
    await world.work()
    await world.go_on(120, 5)
    assert Counter([await status_of(world, caller) for caller in callers]) == {"stored": 3}


@dataclass
class Slow(httpx.AsyncBaseTransport):
    """A transport on which each download takes four seconds."""

    world: World
    inner: httpx.AsyncBaseTransport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.startswith("/delivery/"):
            self.world.clock.advance(4)
        return await self.inner.handle_async_request(request)


def claim_in_order_of_arrival(
    connection: Connection, holder: str, now: datetime, limit: int, steps: Collection[Step] = tuple(Step)
) -> list[Job]:
    waiting = jobs_table.c.state == "waiting"
    due = select(jobs_table).where(waiting, jobs_table.c.run_at <= now, jobs_table.c.step.in_(steps))
    rows = connection.execute(due.order_by(jobs_table.c.run_at, jobs_table.c.id).limit(limit)).all()
    taken = [row.id for row in rows]
    connection.execute(update(jobs_table).where(jobs_table.c.id.in_(taken)).values(state="running"))
    return [Job(row.id, Step(row.step), row.task_id, row.failures, holder) for row in rows]


async def test_downloading_without_regard_to_expiry_is_caught(worlds: Worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    async with worlds() as world:
        await the_link_that_expires_first_is_downloaded_first(world)
    monkeypatch.setattr(jobs, "claim", claim_in_order_of_arrival)
    async with worlds() as world:
        with pytest.raises(AssertionError, match="failed"):
            await the_link_that_expires_first_is_downloaded_first(world)
