"""Changing tasks over HTTP: cancel, resubmit, deadlines. `test_idempotency_key` covers `Idempotency-Key`."""

from datetime import timedelta
from typing import Any

import httpx
import pytest

from app import jobs
from app.db.tables import slots, tasks
from app.jobs import NewJob, Step
from app.rules.task import RESUBMITTABLE, Status
from app.twin import Faults
from app.worker.sweep import NO_TASK
from tests.calling import Caller, caller_of, small, submitted
from tests.rows import put_account
from tests.web.documents import nothing_recorded, problem
from tests.world import World

NO_SUCH_TASK = "task_0000000000000000000000000000000000000"


async def cancel(world: World, task_id: str) -> httpx.Response:
    return await world.api.post(f"/v1/tasks/{task_id}/cancel")


async def resubmit(world: World, task_id: str) -> httpx.Response:
    return await world.api.post(f"/v1/tasks/{task_id}/resubmit")


async def held(world: World) -> int:
    return len(await world.use.db.read(lambda connection: slots.of_accounts(connection, "account")))


async def in_state(world: World, status: Status) -> str:
    """Return the id of a task that is put into this state."""
    task_id = await world.post()
    change = tasks.tasks.update().values(status=status)
    await world.use.db.write(lambda connection: connection.execute(change).close())
    return task_id


async def sweeping(world: World) -> None:
    """Start the sweep, as a worker does."""
    wanted = [NewJob(Step.SWEEP, NO_TASK, world.clock())]
    await world.use.db.write(lambda connection: jobs.enqueue(connection, wanted))


# Cancel


@pytest.mark.parametrize(
    ("status", "becomes", "unwanted"),
    [
        (Status.QUEUED, "cancelled", False),
        (Status.SUBMITTING, "submitting", True),
        (Status.SUBMITTED, "submitted", True),
        (Status.READY, "ready", True),
        (Status.CANCELLED, "cancelled", False),
    ],
)
async def test_a_queued_task_is_cancelled_and_a_later_one_is_marked_unwanted(
    each_world: World, status: Status, becomes: str, *, unwanted: bool
) -> None:
    task_id = await in_state(each_world, status)
    answers = [await cancel(each_world, task_id) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert [(found["status"], found["unwanted"]) for found in (answer.json() for answer in answers)] == [
        (becomes, unwanted)
    ] * 2
    assert (await each_world.task(task_id))["status"] == becomes


@pytest.mark.parametrize("status", [Status.STORED, Status.FAILED])
async def test_a_final_task_cannot_be_cancelled(world: World, status: Status) -> None:
    found = problem(await cancel(world, await in_state(world, status)), 409, "conflict")

    assert status in found["detail"]


async def test_a_cancelled_task_is_never_sent_and_its_slot_goes_to_the_next(each_world: World) -> None:
    await each_world.use.db.write(lambda connection: put_account(connection, account=1))
    first, second = await each_world.post(), await each_world.post()
    await cancel(each_world, first)
    await each_world.work()

    assert [(await each_world.task(task_id))["status"] for task_id in (first, second)] == ["cancelled", "submitted"]
    assert each_world.ledger()["accepted"] == 1
    assert (await each_world.task(first))["cancelled_at"] == "2026-01-01T12:00:00Z"


async def test_the_result_of_a_task_that_was_cancelled_too_late_is_stored(each_world: World) -> None:
    caller = await submitted(each_world, faults=Faults())
    await cancel(each_world, caller.task_id)
    await each_world.go_on(5)
    task = await each_world.task(caller.task_id)

    assert (task["status"], task["unwanted"]) == ("stored", True)
    assert (await each_world.api.get(task["image"]["url"])).status_code == 200


@pytest.mark.parametrize("action", ["cancel", "resubmit"])
async def test_an_unknown_task_cannot_be_changed_and_no_task_without_a_key(world: World, action: str) -> None:
    problem(await world.api.post(f"/v1/tasks/{NO_SUCH_TASK}/{action}"), 404, "not_found")
    problem(await world.api.post(f"/v1/tasks/%00/{action}"), 404, "not_found")
    problem(await world.outsider.post(f"/v1/tasks/{await world.post()}/{action}"), 401, "unauthorized")


# Resubmit


async def lost(world: World) -> Caller:
    """Lose a task that the provider finishes: it fails as `unknown_outcome`. Links live for hours."""
    small(world)
    world.twin.rules = world.twin.rules.model_copy(update={"link_life": timedelta(hours=5)})
    caller = await submitted(world, faults=Faults(lose_answer_after=1, drop_callback=1))
    await world.go_on(1200, 60)
    assert (await world.task(caller.task_id))["failure"]["code"] == "unknown_outcome"
    world.twin.faults = Faults()
    return caller


@pytest.mark.parametrize("status", Status)
async def test_only_a_task_that_failed_can_be_submitted_again(each_world: World, status: Status) -> None:
    task_id = await in_state(each_world, status)
    answer = await resubmit(each_world, task_id)

    if status in RESUBMITTABLE:
        assert (answer.status_code, answer.json()["status"], answer.json()["failure"]) == (202, "queued", None)
    else:
        problem(answer, 409, "conflict")


async def test_a_task_of_unknown_outcome_is_submitted_again_on_purpose(each_world: World) -> None:
    caller = await lost(each_world)
    before = each_world.ledger()["accepted"]
    again = [(await resubmit(each_world, caller.task_id)).status_code for _ in range(2)]
    await each_world.work()
    await each_world.go_on(5)
    task = await each_world.task(caller.task_id)
    attempts = await each_world.timeline(caller.task_id, "submission")

    assert (before, again) == (1, [202, 409])
    assert (task["status"], task["failure"]) == ("stored", None)
    assert [attempt["number"] for attempt in attempts] == [1, 2]
    assert each_world.ledger()["accepted"] == 2
    assert await held(each_world) == 0


async def test_a_late_callback_of_the_earlier_attempt_is_stored_and_shown_as_superseded(each_world: World) -> None:
    caller = await lost(each_world)
    result = caller.ready()
    await resubmit(each_world, caller.task_id)
    await each_world.work()
    answer = await caller.call(result)
    second = await caller_of(each_world, caller.task_id, 2)
    before = (await each_world.task(caller.task_id))["status"]
    await each_world.go_on(5)

    assert answer.status_code == 200
    assert before == "submitted"
    assert ("signed", "superseded") in await second.verdicts()
    assert (await each_world.task(caller.task_id))["status"] == "stored"


async def test_a_callback_of_the_earlier_attempt_finishes_a_resubmitted_task_without_a_second_charge(
    each_world: World,
) -> None:
    caller = await lost(each_world)
    await resubmit(each_world, caller.task_id)
    await caller.call(caller.ready())
    await each_world.work()

    assert (await each_world.task(caller.task_id))["status"] == "stored"
    assert (each_world.ledger()["accepted"], each_world.ledger()["charged"]) == (1, 4)
    assert await held(each_world) == 0


async def test_a_task_whose_deadline_passed_is_submitted_again_without_one(each_world: World) -> None:
    task_id = await each_world.post(deadline_at="2026-01-01T12:00:10Z")
    each_world.clock.advance(10)
    await each_world.work()
    failed = await each_world.task(task_id)
    await resubmit(each_world, task_id)
    await each_world.work()
    await each_world.go_on(5)
    task = await each_world.task(task_id)

    assert failed["failure"]["code"] == "deadline_exceeded"
    assert (task["status"], task["deadline_at"]) == ("stored", None)


# Priority and deadlines


@pytest.mark.parametrize(
    "params",
    [
        {"deadline_at": "2026-01-01T11:59:59Z"},
        {"deadline_at": "2026-01-01T12:00:00Z"},
        {"deadline_at": "2026-01-01T13:00:00"},
        {"deadline_at": "tomorrow"},
        {"deadline_at": 1_800_000_000},
        {"deadline_at": "1800000000"},
        {"priority": 10},
        {"priority": -1},
        {"priority": "1"},
    ],
    ids=str,
)
async def test_an_invalid_priority_or_deadline_is_refused_and_nothing_is_recorded(
    world: World, params: dict[str, Any]
) -> None:
    answer = await world.api.post("/v1/tasks", json={"prompt": "a red fox", **params})
    (field,) = params

    assert field in problem(answer, 422)["fields"]
    assert await nothing_recorded(world)


async def test_priority_and_deadline_are_shown(each_world: World) -> None:
    task = await each_world.task(await each_world.post(priority=7, deadline_at="2026-01-01T15:00:00+02:00"))

    assert (task["priority"], task["deadline_at"]) == (7, "2026-01-01T13:00:00Z")


async def test_a_deadline_that_passes_while_a_task_is_queued_ends_it_and_costs_nothing(each_world: World) -> None:
    await each_world.use.db.write(lambda connection: put_account(connection, account=1))
    await sweeping(each_world)
    small(each_world)
    each_world.twin.rules = each_world.twin.rules.model_copy(update={"ready_after": timedelta(seconds=90)})
    first = await each_world.post()
    second = await each_world.post(deadline_at="2026-01-01T12:01:00Z")
    await each_world.go_on(120)
    task = await each_world.task(second)

    assert (await each_world.task(first))["status"] == "stored"
    assert (task["status"], task["failure"]["code"]) == ("failed", "deadline_exceeded")
    assert (task["failure"]["money_spent"], task["cost"]) == ("no", None)
    assert each_world.ledger()["accepted"] == 1


async def test_a_deadline_that_passes_just_before_the_submission_costs_nothing(each_world: World) -> None:
    task_id = await each_world.post(deadline_at="2026-01-01T12:00:10Z")
    each_world.clock.advance(10)
    await each_world.work()

    assert (await each_world.task(task_id))["failure"]["code"] == "deadline_exceeded"
    assert (each_world.ledger()["accepted"], await held(each_world)) == (0, 0)


async def test_a_deadline_does_not_end_a_task_that_the_provider_has(each_world: World) -> None:
    caller = await submitted(each_world, deadline_at="2026-01-01T12:00:01Z")
    await sweeping(each_world)
    await each_world.go_on(40)

    assert (await each_world.task(caller.task_id))["status"] == "stored"
