"""Callbacks that arrive early, late or twice, belong to another attempt, or contradict each other."""

from typing import Any

import pytest

from app.db.tables import evidence
from app.twin import Faults
from tests.calling import attempt_of, caller_of, done, small, submitted
from tests.world import World


async def test_a_callback_before_the_submit_answer_finds_its_task(each_world: World) -> None:
    caller = await submitted(each_world, faults=Faults(early_callback=1))
    await each_world.work()
    task = await each_world.task(caller.task_id)

    assert (task["status"], task["cost"]) == ("stored", 4)
    assert each_world.ledger()["tasks"][0]["callbacks"][0]["kind"] == "early"
    assert await caller.verdicts() == [("shared_secret", "moved")]


async def test_the_cost_is_recorded_if_the_task_failed_before_the_submit_answer(each_world: World) -> None:
    caller = await submitted(each_world, faults=Faults(early_callback=1), prompt="an unsafe result")
    task = await each_world.task(caller.task_id)

    assert (task["status"], task["failure"]["code"]) == ("failed", "content_moderated")
    assert (task["cost"], each_world.ledger()["charged"]) == (4, 4)


async def test_a_duplicate_callback_has_one_effect_and_is_counted(each_world: World) -> None:
    caller = await submitted(each_world)
    await done(each_world)
    answers = [(await caller.call(caller.ready())).status_code for _ in range(3)]
    await each_world.work()
    (kept,) = await each_world.use.db.read(
        lambda connection: [each for each in evidence.of_task(connection, caller.task_id) if each.witness == "callback"]
    )

    assert answers == [200, 200, 200]
    assert (kept.copies, kept.effect) == (3, "moved")
    assert len(await each_world.timeline(caller.task_id, "download")) == 1


async def test_a_late_callback_does_not_reopen_a_failed_task(world: World) -> None:
    caller = await submitted(world)
    await done(world)
    provider_id = caller.ready()["id"]
    await caller.call({"id": provider_id, "status": "Error", "error": "internal_error", "message": "no"})
    late = await caller.call(caller.ready())
    await world.work()
    task = await world.task(caller.task_id)

    assert late.status_code == 200
    assert (task["status"], task["failure"]["code"], task["failure"]["detail"]) == ("failed", "provider_error", "no")
    assert await caller.verdicts() == [("signed", "moved"), ("signed", "late")]


async def test_a_failure_that_contradicts_a_result_is_stored_and_not_applied(world: World) -> None:
    caller = await submitted(world)
    await done(world)
    ready = caller.ready()
    await caller.call(ready)
    await caller.call({"id": ready["id"], "status": "Error"})
    await world.work()

    assert (await world.task(caller.task_id))["status"] == "stored"
    assert await caller.verdicts() == [("signed", "moved"), ("signed", "contradicted")]


@pytest.mark.parametrize("stored", [False, True])
async def test_an_interim_callback_after_the_final_one_changes_nothing(world: World, stored: bool) -> None:
    caller = await submitted(world)
    await done(world)
    ready = caller.ready("field")
    await caller.call(ready)
    if stored:
        await world.work()
    answer = await caller.call({"task_id": ready["task_id"], "status": "processing", "progress": 0.5})
    task = await world.task(caller.task_id)

    assert answer.status_code == 200
    assert task["status"] == ("stored" if stored else "ready")
    assert (await caller.verdicts())[-1] == ("signed", "late" if stored else "confirmed")


async def test_a_callback_with_another_provider_id_is_not_applied_and_triggers_a_poll(world: World) -> None:
    caller = await submitted(world)
    await done(world)
    await caller.call(caller.ready(id="another"))
    before = await world.task(caller.task_id)
    await world.work()

    assert before["status"] == "submitted"
    assert await caller.verdicts() == [("signed", "contradicted")]
    assert (await world.task(caller.task_id))["status"] == "stored"


@pytest.mark.parametrize("ids", [{"id": 12345}, {"id": "x" * 201}, {"task_id": "another"}])
async def test_a_callback_without_exactly_one_id_is_not_applied_and_triggers_a_poll(
    each_world: World, ids: dict[str, Any]
) -> None:
    caller = await submitted(each_world)
    await done(each_world)
    await caller.call(caller.ready(**ids))
    before = await each_world.task(caller.task_id)
    await each_world.work()

    assert before["status"] == "submitted"
    assert await caller.verdicts() == [("signed", "hinted")]
    assert (await each_world.task(caller.task_id))["status"] == "stored"


async def test_a_callback_of_an_earlier_attempt_is_superseded(world: World) -> None:
    small(world)
    world.twin.faults = Faults(submit_5xx=1)
    task_id = await world.post()
    await world.work()
    world.twin.faults = Faults(drop_callback=1)
    world.clock.advance(2)
    await world.work()
    first, second = await caller_of(world, task_id, 1), await caller_of(world, task_id, 2)
    await done(world)
    await first.call(first.ready(id="of-the-first"))
    before = await world.task(task_id)
    await second.call(second.ready())

    assert before["status"] == "submitted"
    assert await first.verdicts() == [("signed", "superseded"), ("signed", "moved")]


async def test_a_callback_proves_that_a_seemingly_refused_attempt_was_accepted(world: World) -> None:
    small(world)
    world.twin.faults = Faults(submit_5xx=1)
    task_id = await world.post()
    await world.work()
    caller = await caller_of(world, task_id)
    await caller.call({"id": "p9", "status": "processing"})
    world.twin.faults = Faults()
    world.clock.advance(2)
    await world.work()

    assert (await world.task(task_id))["status"] == "submitted"
    assert (await attempt_of(world, task_id)).provider_id == "p9"
    assert world.ledger()["accepted"] == 0


@pytest.mark.parametrize(
    "body",
    [b"", b"not json", b"[]", b"[" * 100_000, b'{"status": "Ready"}', b'{"status": "Thinking"}', b'{"id": 7}', b"\xff"],
    ids=lambda body: repr(body[:20]),
)
async def test_a_signed_callback_that_is_not_understood_is_stored_and_triggers_a_poll(
    world: World, body: bytes
) -> None:
    caller = await submitted(world)
    await done(world)
    answer = await caller.call(body)
    await world.work()

    assert answer.status_code == 200
    assert await caller.verdicts() == [("signed", "hinted")]
    assert (await world.task(caller.task_id))["status"] == "stored"


@pytest.mark.parametrize("expiry", ["9999-12-31T23:59:59Z", "tomorrow", "", "0001-01-01T00:00:00Z"])
async def test_a_result_link_with_an_invalid_expiry_does_not_stop_the_task(each_world: World, expiry: str) -> None:
    caller = await submitted(each_world)
    await done(each_world)
    body: dict[str, Any] = caller.ready()
    body["result"]["sample"] = f"{body['result']['sample'].partition('?')[0]}?se={expiry}"
    await caller.call(body)
    await each_world.go_on(3)

    # This link has a wrong signature and is refused; the link in the provider's poll answer works.
    assert (await each_world.task(caller.task_id))["status"] == "stored"
