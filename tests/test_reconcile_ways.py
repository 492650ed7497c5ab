"""Polling: its frequency, its start, all regions, and polling without callbacks."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from app.catalog import Catalog
from app.db.tables import tasks
from app.dispatch import dispatch
from app.provider import Bfl, ProviderResponse
from app.rules.task import Report, Said, Status
from app.security.http_clients import provider_client
from app.telemetry import metrics
from app.twin import Faults
from tests.calling import Scripted, answering, attempt_of, done, submitted
from tests.pictures import in_base64, picture
from tests.rows import plan_task, stored_jobs
from tests.world import EVIDENCE_WINDOW, World, with_provider

TAKEN = ProviderResponse(Report(Said.PENDING, "p1"), 200, {}, b"{}")


def repaired() -> float:
    return metrics.REGISTRY.get_sample_value("fluxhook_tasks_repaired_by_poll_total") or 0


# Hints


async def test_a_flood_of_hints_causes_few_polls(each_world: World) -> None:
    caller = await submitted(each_world)
    provider = answering()
    provider.fetched = TAKEN
    each_world.use = with_provider(each_world.use, provider)
    for number in range(60):
        await caller.call({"id": "x", "status": "Ready", "n": number % 7}, {})
        each_world.clock.advance(0.5)
        await each_world.work()

    assert 30 / 6 <= len(provider.asked) <= 30 / 5 + 6  # a young task may be polled more often than every 5 seconds


async def test_simultaneous_hints_cause_one_poll(each_world: World) -> None:
    caller = await submitted(each_world)
    provider = answering()
    provider.fetched = TAKEN
    each_world.use = with_provider(each_world.use, provider)
    for number in range(50):
        await caller.call({"id": "x", "status": "Ready", "n": number}, {})
    await each_world.work()

    assert len(provider.asked) == 1


# Without callbacks


@pytest.mark.parametrize(
    ("params", "status"),
    [
        ({}, "stored"),
        ({"input_image": in_base64(picture()), "output_format": "jpeg"}, "stored"),
        ({"prompt": "an unsafe result"}, "failed"),
        ({"prompt": "fail"}, "failed"),
    ],
    ids=["text", "edit", "moderated", "failed"],
)
async def test_poll_only_mode_has_every_feature(each_world: World, params: dict[str, Any], status: str) -> None:
    each_world.use = replace(each_world.use, public_url=None, evidence_window=timedelta())
    before = repaired()
    caller = await submitted(each_world, **params)
    await each_world.go_on(8)
    polls = [entry for entry in await each_world.timeline(caller.task_id, "evidence") if entry["witness"] == "poll"]

    assert (await each_world.task(caller.task_id))["status"] == status
    assert polls[-1]["effect"] == "moved"
    # Polling is the normal way here, so nothing counts as repaired.
    assert not any(entry["repaired"] for entry in polls)
    assert repaired() == before
    assert each_world.ledger()["tasks"][0]["webhook_url"] is None
    assert (await each_world.api.get("/readyz")).json()["notes"] == []


# Missing callbacks


async def test_a_result_from_a_poll_is_counted_shown_and_logged_as_repaired(each_world: World) -> None:
    before = repaired()
    with capture_logs() as logs:
        caller = await submitted(each_world)
        await each_world.go_on(40)
    polls = [entry for entry in await each_world.timeline(caller.task_id, "evidence") if entry["witness"] == "poll"]

    assert [entry["repaired"] for entry in polls] == [True]
    assert repaired() - before == 1
    assert [line["task_id"] for line in logs if line["event"] == "repaired_by_poll"] == [caller.task_id]


async def test_missing_callbacks_are_reported_until_one_arrives(each_world: World) -> None:
    async def notes() -> list[str]:
        found: list[str] = (await each_world.api.get("/readyz")).json()["notes"]
        return found

    with capture_logs() as logs:
        for _ in range(2):
            await submitted(each_world)
        await each_world.go_on(60, 2)
        few = await notes()
        await submitted(each_world)
        await each_world.go_on(60, 2)
    many = await notes()
    await submitted(each_world, faults=Faults())
    await each_world.go_on(5)

    assert few == []
    assert len(many) == 1
    assert "FLUXHOOK_PUBLIC_URL" in many[0]
    assert [line["log_level"] for line in logs if line["event"] == "callbacks_missing"] == ["warning"]
    assert await notes() == []


# When a callback is overdue


@pytest.mark.parametrize(
    ("lately", "overdue"),
    [([], 20), ([1, 1, 1], 5), ([2, 4, 6], 12), ([4, 4, 900], 12), ([100], 60)],
    ids=["nothing seen yet", "not sooner", "three times the median", "one slow one", "not later"],
)
async def test_a_callback_is_overdue_after_a_multiple_of_the_models_median_time(
    each_world: World, lately: list[int], overdue: int
) -> None:
    def took(connection: Any) -> None:
        for number, seconds in enumerate(lately):
            at = each_world.clock()
            times: dict[str, Any] = {
                "submitted_at": at,
                "ready_at": at + timedelta(seconds=seconds),
                "status": Status.STORED,
            }
            plan_task(connection, f"{number}", **times)
            plan_task(connection, f"max{number}", model="flux-kontext-max", **{**times, "ready_at": at})

    await each_world.use.db.write(took)
    task_id = await each_world.post()
    await dispatch(with_provider(each_world.use, answering(TAKEN)), task_id)
    (look,) = [job for job in await each_world.use.db.read(stored_jobs) if job.step == "reconcile"]

    # The earlier of this poll and of the job for a lost answer.
    assert (look.run_at - each_world.clock()).total_seconds() == pytest.approx(overdue)


async def test_without_earlier_tasks_a_callback_is_overdue_after_twice_the_usual_time_of_its_model(
    world: World,
) -> None:
    row = world.use.catalog.model("flux-2-pro")
    use = replace(with_provider(world.use, answering(TAKEN)), catalog=Catalog([replace(row, usual_s=14)]))
    task_id = await world.post(model="flux-2-pro")
    await dispatch(use, task_id)
    (look,) = [job for job in await use.db.read(stored_jobs) if job.step == "reconcile"]

    assert (look.run_at - world.clock()).total_seconds() == pytest.approx(28)


# Regions


UNKNOWN = {"id": "p1", "status": "Task not found"}


def regions(world: World, alive: str | None, unknown: object = UNKNOWN) -> list[str]:
    """BFL with one region that knows the task. Return the hosts in the order of the polls."""
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return httpx.Response(200, json={"id": "p1", "cost": 4})
        asked.append(request.url.host)
        if request.url.host == alive:
            return httpx.Response(200, json={"id": "p1", "status": "Pending"})
        return httpx.Response(404, json=unknown)

    http = provider_client(httpx.MockTransport(answer))
    world.use = with_provider(world.use, Bfl(http, "https://api.bfl.ai", "a-provider-key"))
    return asked


async def test_a_task_unknown_at_one_region_is_polled_at_the_others_and_then_where_it_was_found(
    each_world: World,
) -> None:
    asked = regions(each_world, "api.eu.bfl.ai")
    task_id = await each_world.post()
    await each_world.work()
    await each_world.go_on(30)
    first, later = asked[:3], set(asked[3:])

    assert first == ["api.bfl.ai", "api.us.bfl.ai", "api.eu.bfl.ai"]
    assert later == {"api.eu.bfl.ai"}
    assert (await attempt_of(each_world, task_id)).polling_url == "https://api.eu.bfl.ai/v1/get_result?id=p1"


@pytest.mark.parametrize("region", ["us", "eu", "us1", "us2", "us3", "eu1", "eu2", "eu4"])
async def test_a_task_is_found_in_every_listed_region(world: World, region: str) -> None:
    asked = regions(world, f"api.{region}.bfl.ai")
    await world.post()
    await world.work()
    await world.go_on(30)

    assert asked[-1] == f"api.{region}.bfl.ai"


async def test_a_404_without_a_reason_causes_polls_of_the_other_regions(world: World) -> None:
    asked = regions(world, "api.eu.bfl.ai", unknown={"detail": "Not Found"})
    await world.post()
    await world.work()
    await world.go_on(30)

    assert asked[:3] == ["api.bfl.ai", "api.us.bfl.ai", "api.eu.bfl.ai"]
    assert set(asked[3:]) == {"api.eu.bfl.ai"}


async def test_a_task_unknown_in_all_regions_fails_only_after_the_contracts_time(world: World) -> None:
    asked = regions(world, None)
    task_id = await world.post()
    await world.work()
    await world.go_on(590, 10)
    before = (await world.task(task_id))["status"]
    await world.go_on(120, 10)

    assert asked[:5] == ["api.bfl.ai", "api.us.bfl.ai", "api.eu.bfl.ai", "api.us1.bfl.ai", "api.eu1.bfl.ai"]
    assert before == "submitted"
    assert (await world.task(task_id))["failure"]["code"] == "unknown_outcome"


# After a change of the configured provider


def moved_on(world: World) -> Scripted:
    """Configure another provider, which does not know the tasks of the former one."""
    provider = answering()
    provider.name = "gptproto"
    provider.fetched = ProviderResponse(Report(Said.NOT_FOUND), 404, {}, b"{}")
    world.use = with_provider(world.use, provider)
    return provider


async def test_a_provider_is_not_polled_about_the_task_of_another_whose_callbacks_count(each_world: World) -> None:
    caller = await submitted(each_world)
    provider = moved_on(each_world)
    await caller.call({"id": "p1", "status": "Ready"}, {})
    await each_world.go_on(1200, 30)
    waiting = (await each_world.task(caller.task_id))["status"]
    await caller.call(caller.ready())

    assert provider.asked == []
    assert waiting == "submitted"
    assert (await each_world.task(caller.task_id))["status"] == "ready"


async def test_a_hint_causes_no_poll_about_the_lost_answer_of_another_provider(each_world: World) -> None:
    caller = await submitted(each_world, faults=Faults(lose_answer_after=1, drop_callback=1))
    provider = moved_on(each_world)
    await caller.call({"id": "p1", "status": "Ready"}, {})
    await each_world.go_on(EVIDENCE_WINDOW.total_seconds() + 30, 30)

    assert provider.asked == []
    assert (await each_world.task(caller.task_id))["failure"]["code"] == "unknown_outcome"


async def test_a_task_of_another_provider_is_given_up_after_a_day_of_silence(world: World) -> None:
    caller = await submitted(world)
    moved_on(world)
    await world.go_on(23 * 3600, 600)
    before = (await world.task(caller.task_id))["status"]
    await world.go_on(2 * 3600, 600)

    assert before == "submitted"
    assert (await world.task(caller.task_id))["failure"]["code"] == "unknown_outcome"


async def test_a_task_queued_for_another_provider_is_submitted_to_the_configured_one(
    each_world: World,
) -> None:
    task_id = await each_world.post()
    provider = answering(TAKEN)
    provider.name, provider.fetched = "gptproto", TAKEN
    each_world.use = with_provider(each_world.use, provider)
    await each_world.go_on(60)
    sent = await attempt_of(each_world, task_id)

    assert (sent.provider, sent.outcome) == ("gptproto", "accepted")
    assert provider.asked != []


async def test_a_provider_that_is_configured_again_is_polled_as_before(world: World) -> None:
    caller = await submitted(world)
    former = world.use
    moved_on(world)
    await world.go_on(60)
    world.use = former
    await world.go_on(60)

    assert (await world.task(caller.task_id))["status"] == "stored"


# Lost answers


async def test_the_evidence_window_is_as_long_as_configured(each_world: World) -> None:
    each_world.use = replace(each_world.use, evidence_window=timedelta(seconds=100))
    caller = await submitted(each_world, faults=Faults(lose_answer_before=1))
    await each_world.go_on(98, 2)
    before = (await each_world.task(caller.task_id))["status"]
    await each_world.go_on(4, 2)

    assert before == "submitting"
    assert (await each_world.task(caller.task_id))["failure"]["code"] == "unknown_outcome"


async def test_a_callback_adopts_the_task_whose_answer_was_lost_and_it_is_charged_once(each_world: World) -> None:
    caller = await submitted(each_world, faults=Faults(lose_answer_after=1, drop_callback=1))
    await each_world.go_on(300, 10)
    await done(each_world)
    result = caller.ready()
    await caller.call(result)
    await each_world.work()
    ledger = each_world.ledger()

    assert (await each_world.task(caller.task_id))["status"] == "stored"
    assert (await attempt_of(each_world, caller.task_id)).provider_id == json.loads(json.dumps(result))["id"]
    assert (ledger["accepted"], ledger["charged"], ledger["refused"]) == (1, 4, [])
    kept = await each_world.use.db.read(lambda connection: tasks.get(connection, caller.task_id))
    assert kept is not None
    assert kept.tries == 0
