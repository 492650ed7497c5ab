"""Lost submit answers: how long a task waits for evidence, and how an unproven callback helps."""

from dataclasses import replace
from datetime import timedelta

from app.errors import Unavailable
from app.provider import ProviderResponse, SubmitRequest
from app.reconcile import reconcile
from app.rules.task import Report, Said
from app.twin import Faults
from tests.calling import Scripted, answering, attempt_of, caller_of, submitted
from tests.world import EVIDENCE_WINDOW, World, with_provider

LOST = ProviderResponse(Report(Said.LOST))


async def held(world: World, *answers: ProviderResponse, fetched: ProviderResponse) -> tuple[str, Scripted]:
    """A task whose submit answer was lost, at a provider that gives this answer to every poll."""
    provider = answering(*answers)
    provider.fetched = fetched
    world.use = with_provider(world.use, provider)
    task_id = await world.post()
    await world.work()
    return task_id, provider


async def test_a_task_with_a_lost_answer_awaits_evidence_for_exactly_its_window(world: World) -> None:
    world.use = replace(world.use, evidence_window=timedelta(seconds=45))
    task_id, _ = await held(world, LOST, fetched=LOST)
    await world.go_on(44)
    before = (await world.task(task_id))["status"]
    await world.go_on(2)

    assert before == "submitting"
    assert (await world.task(task_id))["failure"]["code"] == "unknown_outcome"


async def test_without_callbacks_the_slot_of_a_lost_answer_is_free_at_once(world: World) -> None:
    world.use = replace(world.use, public_url=None, evidence_window=timedelta())
    task_id, _ = await held(world, LOST, fetched=LOST)

    assert (await world.task(task_id))["failure"]["code"] == "unknown_outcome"


async def test_an_unsigned_callback_finishes_a_task_whose_answer_was_lost(each_world: World) -> None:
    caller = await submitted(each_world, faults=Faults(lose_answer_after=1, unsigned_callback=1))
    await each_world.go_on(5)

    assert (await each_world.task(caller.task_id))["status"] == "stored"
    assert await caller.verdicts() == [("unproven", "hinted")]
    moved = [entry for entry in await each_world.timeline(caller.task_id, "evidence") if entry["effect"] == "moved"]
    assert [entry["witness"] for entry in moved] == ["poll"]
    assert each_world.ledger()["accepted"] == 1


async def test_a_hint_is_ignored_while_the_submit_answer_may_still_arrive(each_world: World) -> None:
    task_id = await each_world.post()

    async def submitting(_: SubmitRequest) -> ProviderResponse:
        caller = await caller_of(each_world, task_id)
        await caller.call({"id": "a stranger's", "status": "Ready"}, proof={})
        await reconcile(each_world.use, task_id)
        return ProviderResponse(Report(Said.PENDING, "p1"), 200, {}, b"{}")

    provider = Scripted(submitting)
    each_world.use = with_provider(each_world.use, provider)
    await each_world.work()
    await each_world.go_on(30)

    assert {reference.provider_id for reference in provider.asked} == {"p1"}
    assert (await attempt_of(each_world, task_id)).provider_id == "p1"


async def test_a_hint_counts_once_the_submit_answer_can_no_longer_arrive(each_world: World) -> None:
    async def submitting(_: SubmitRequest) -> ProviderResponse:
        raise Unavailable("the process dies")

    provider = Scripted(submitting, fetched=ProviderResponse(Report(Said.PENDING, "p1"), 200, {}, b"{}"))
    each_world.use = replace(with_provider(each_world.use, provider), evidence_window=timedelta(minutes=13))
    task_id = await each_world.post()
    await each_world.work()
    caller = await caller_of(each_world, task_id)
    await caller.call({"id": "p1", "status": "Ready"}, proof={})
    await each_world.go_on(60)
    early = list(provider.asked)
    await each_world.go_on(10)

    assert early == []
    assert {reference.provider_id for reference in provider.asked} == {"p1"}
    assert (await each_world.task(task_id))["status"] == "submitted"


async def test_a_task_is_not_given_up_while_its_submit_is_in_flight(world: World) -> None:
    task_id = await world.post()

    async def submitting(_: SubmitRequest) -> ProviderResponse:
        world.clock.advance(50)
        caller = await caller_of(world, task_id)
        await caller.call({"status": "Ready"}, proof={})
        await reconcile(world.use, task_id)
        return ProviderResponse(Report(Said.PENDING, "p1"), 200, {}, b"{}")

    world.use = replace(with_provider(world.use, Scripted(submitting)), evidence_window=timedelta(seconds=45))
    await world.work()

    assert (await world.task(task_id))["status"] == "submitted"


async def test_an_id_that_another_attempt_has_is_not_polled(each_world: World) -> None:
    other = await submitted(each_world)
    theirs = (await attempt_of(each_world, other.task_id)).provider_id
    task_id, provider = await held(each_world, LOST, fetched=LOST)
    caller = await caller_of(each_world, task_id)
    await caller.call({"id": theirs, "status": "Ready"}, proof={})
    await each_world.go_on(5)

    assert await caller.verdicts() == [("unproven", "hinted")]
    assert provider.asked == []
    assert (await each_world.task(task_id))["status"] == "submitting"


async def test_a_forged_callback_provides_no_id_to_poll(world: World) -> None:
    task_id, provider = await held(world, LOST, fetched=LOST)
    caller = await caller_of(world, task_id)
    await caller.call({"id": "p1", "status": "Ready"}, proof={"x-bfl-signature": "sha256=0"})
    await world.go_on(30)

    assert provider.asked == []


async def test_an_unknown_hinted_id_does_not_change_the_end_of_the_window(world: World) -> None:
    task_id, provider = await held(world, LOST, fetched=ProviderResponse(Report(Said.NOT_FOUND), 404, {}, b"{}"))
    caller = await caller_of(world, task_id)
    await caller.call({"id": "unknown", "status": "Ready"}, proof={})
    await world.go_on(EVIDENCE_WINDOW.total_seconds() - 10, 10)
    before = (await world.task(task_id))["status"]
    await world.go_on(60, 10)
    task = await world.task(task_id)

    assert provider.asked != []
    assert before == "submitting"
    assert (task["failure"]["code"], task["failure"]["money_spent"]) == ("unknown_outcome", "maybe")


async def test_a_proof_after_a_wrong_hint_still_counts(world: World) -> None:
    caller = await submitted(world, faults=Faults(lose_answer_after=1, drop_callback=1))
    await caller.call({"id": "unknown", "status": "Ready"}, proof={})
    await world.go_on(5)
    await caller.call(caller.ready())
    await world.go_on(2)

    assert (await world.task(caller.task_id))["status"] == "stored"
