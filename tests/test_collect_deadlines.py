"""Images are collected before their links expire, and none is given up before another poll."""

import json
from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import timedelta

import httpx
import pytest
from structlog.testing import capture_logs

from app.provider import ProviderResponse, messages
from app.rules.task import Report, Said
from app.telemetry import metrics
from app.twin import Faults
from app.worker import loop
from tests.calling import Caller, Scripted, answering, done, small, submitted
from tests.downloads import downloads_from
from tests.pictures import picture
from tests.world import TWIN, World, with_provider


def lost() -> float:
    return metrics.REGISTRY.get_sample_value("fluxhook_assets_lost_total") or 0


async def ready(world: World) -> Caller:
    """A ready task whose result has not been collected."""
    caller = await submitted(world)
    world.clock.advance(3)
    await world.twin.tick()
    await caller.call(caller.ready())
    return caller


def answering_downloads(world: World, status: int, fresh: str = "") -> None:
    """Answer every download like this, except for one fresh link."""

    def answer(request: httpx.Request) -> httpx.Response:
        good = str(request.url) == fresh
        return httpx.Response(200, content=pieces(picture())) if good else httpx.Response(status)

    world.use = replace(world.use, results=downloads_from(answer, TWIN))


async def pieces(data: bytes) -> AsyncGenerator[bytes]:
    yield data


FRESH = "https://delivery.eu1.bfl.ai/fresh.png"


def fresh_link(world: World) -> Scripted:
    """A provider whose every poll answer has a new link, and the only link that works."""
    answering_downloads(world, 403, FRESH)
    provider = answering()
    expires = world.clock() + timedelta(hours=1)
    provider.fetched = ProviderResponse(Report(Said.READY, sample_url=FRESH, sample_expires_at=expires), 200, {}, b"{}")
    world.use = with_provider(world.use, provider)
    return provider


async def test_the_link_that_expires_first_is_collected_first(each_world: World) -> None:
    lives = {"long": 600, "short": 60, "middle": 300}
    callers = {}
    for name, seconds in lives.items():
        small(each_world)
        rules = {"link_life": timedelta(seconds=seconds)}
        each_world.twin.rules = each_world.twin.rules.model_copy(update=rules)
        callers[name] = await submitted(each_world)
    await done(each_world)
    for caller, theirs in zip(callers.values(), each_world.twin.tasks.values(), strict=True):
        result = {"sample": each_world.twin.links.url(TWIN, theirs)}
        await caller.call({"id": theirs.id, "status": "Ready", "result": result})
    stored: list[str] = []
    while await loop.run_once(each_world.use):
        states = {name: (await each_world.task(caller.task_id))["status"] for name, caller in callers.items()}
        stored += [name for name, status in states.items() if status == "stored" and name not in stored]

    assert stored == ["short", "middle", "long"]


async def test_a_refused_link_is_replaced_by_a_fresh_one_from_the_provider(each_world: World) -> None:
    caller = await ready(each_world)
    provider = fresh_link(each_world)
    await each_world.go_on(4)

    assert (await each_world.task(caller.task_id))["status"] == "stored"
    assert len(provider.asked) == 1


async def test_a_service_that_was_down_past_the_expiry_polls_for_a_fresh_link(each_world: World) -> None:
    caller = await ready(each_world)
    before = lost()
    each_world.clock.advance(900)
    provider = fresh_link(each_world)
    await each_world.go_on(10)

    assert (await each_world.task(caller.task_id))["status"] == "stored"
    assert len(provider.asked) == 1
    assert lost() == before


async def test_a_service_that_was_down_for_hours_polls_before_it_gives_up_an_image(each_world: World) -> None:
    each_world.use = replace(each_world.use, public_url=None)
    caller = await submitted(each_world)
    each_world.clock.advance(3)
    await each_world.twin.tick()
    while (await each_world.task(caller.task_id))["status"] != "ready":  # polled: no reconcile job remains
        assert await loop.run_once(each_world.use)
    each_world.clock.advance(2 * 3600)
    provider = fresh_link(each_world)
    await each_world.go_on(10)

    assert (await each_world.task(caller.task_id))["status"] == "stored"
    assert len(provider.asked) == 1


async def test_a_fresh_link_after_hours_is_tried_while_it_is_valid(each_world: World) -> None:
    caller = await ready(each_world)
    each_world.clock.advance(2 * 3600)
    fresh_link(each_world)
    answering_downloads(each_world, 503)
    await each_world.go_on(120, 10)
    held = (await each_world.task(caller.task_id))["status"]
    answering_downloads(each_world, 403, FRESH)
    await each_world.go_on(30)

    assert (held, (await each_world.task(caller.task_id))["status"]) == ("ready", "stored")


async def test_a_broken_link_that_claims_a_year_is_given_up_after_an_hour_of_tries(
    world: World,
) -> None:
    caller = await ready(world)
    world.clock.advance(2 * 3600)
    provider = fresh_link(world)
    assert provider.fetched is not None
    report = provider.fetched.report._replace(sample_expires_at=world.clock() + timedelta(days=365))
    provider.fetched = replace(provider.fetched, report=report)
    answering_downloads(world, 403)
    await world.go_on(3600 + 300, 60)

    assert (await world.task(caller.task_id))["failure"]["code"] == "asset_lost"


async def test_a_link_that_claims_to_have_expired_in_the_year_1_is_tried_and_replaced(each_world: World) -> None:
    caller = await submitted(each_world)
    body = caller.ready()
    body["result"]["sample"] = "https://delivery.eu1.bfl.ai/a.png?se=0001-01-01T00:00:00Z"
    await caller.call(body)
    provider = fresh_link(each_world)

    def answer(request: httpx.Request) -> httpx.Response:
        if str(request.url) != FRESH:
            raise httpx.ReadError("broken off", request=request)
        return httpx.Response(200, content=pieces(picture()))

    each_world.use = replace(each_world.use, results=downloads_from(answer, TWIN))
    await each_world.work()
    tried = await each_world.timeline(caller.task_id, "download")
    await each_world.go_on(30)

    assert "failed" in {entry["outcome"] for entry in tried}
    assert (await each_world.task(caller.task_id))["status"] == "stored"
    assert provider.asked


async def test_an_image_is_lost_only_after_a_poll_past_the_deadline(each_world: World) -> None:
    caller = await ready(each_world)
    answering_downloads(each_world, 403)
    provider = answering()  # gives no usable answer to any poll
    each_world.use = with_provider(each_world.use, provider)
    before = lost()
    with capture_logs() as logs:
        await each_world.go_on(1800, 60)
        held = (await each_world.task(caller.task_id))["status"]
        provider.fetched = ProviderResponse(Report(Said.NOT_FOUND), 404, {}, b"{}")
        await each_world.go_on(180, 20)
    task = await each_world.task(caller.task_id)
    lines = [line for line in logs if line["event"] == "asset_lost"]

    assert held == "ready"
    assert (task["status"], task["failure"]["code"], task["failure"]["money_spent"]) == ("failed", "asset_lost", "yes")
    assert lost() - before == 1
    assert [(line["log_level"], line["task_id"]) for line in lines] == [("error", caller.task_id)]
    assert f"fluxhook_assets_lost_total {lost()}" in (await each_world.api.get("/metrics")).text


@pytest.mark.parametrize("witness", ["callback", "poll"])
@pytest.mark.parametrize("ended", ["2026-01-01T00:00:00Z", "0001-01-01T00:00:00Z"])
async def test_one_failed_download_does_not_lose_an_image_if_the_local_clock_is_ahead(
    each_world: World, witness: str, ended: str
) -> None:
    link = f"https://delivery.eu1.bfl.ai/a.png?se={ended}"
    body = {"id": "p1", "status": "Ready", "result": {"sample": link}}
    provider = answering(ProviderResponse(Report(Said.PENDING, provider_id="p1"), 200, {}, b"{}"))
    provider.fetched = ProviderResponse(messages.read_status(json.dumps(body).encode()), 200, {}, b"{}")
    each_world.use = with_provider(each_world.use, provider)
    caller = await submitted(each_world)
    answering_downloads(each_world, 503)
    if witness == "callback":
        await caller.call(body)
    await each_world.go_on(80, 10)
    held = (await each_world.task(caller.task_id))["status"]
    answering_downloads(each_world, 503, link)
    await each_world.go_on(60, 10)

    assert held == "ready"
    assert (await each_world.task(caller.task_id))["status"] == "stored"


async def test_a_link_that_never_works_is_given_up_after_the_contracts_ten_minutes(world: World) -> None:
    caller = await submitted(world)
    answering_downloads(world, 403)
    provider = answering()
    provider.fetched = ProviderResponse(Report(Said.NOT_FOUND), 404, {}, b"{}")
    world.use = with_provider(world.use, provider)
    await caller.call({"status": "Ready", "result": {"sample": "https://delivery.eu1.bfl.ai/a.png?se=2026-01-01"}})
    await world.go_on(590, 20)
    before = (await world.task(caller.task_id))["status"]
    await world.go_on(120, 20)

    assert before == "ready"
    assert (await world.task(caller.task_id))["failure"]["code"] == "asset_lost"


async def test_an_image_is_lost_after_an_hour_without_an_answer_of_the_provider(world: World) -> None:
    caller = await ready(world)
    answering_downloads(world, 403)
    world.use = with_provider(world.use, answering())
    await world.go_on(3600 + 900, 60)

    assert (await world.task(caller.task_id))["failure"]["code"] == "asset_lost"


async def test_a_task_with_a_lost_image_can_be_resubmitted(world: World) -> None:
    caller = await ready(world)
    good = world.use
    answering_downloads(world, 403)
    await world.go_on(900, 30)
    before = (await world.task(caller.task_id))["failure"]["code"]
    world.use, world.twin.faults = good, Faults()
    answer = await world.api.post(f"/v1/tasks/{caller.task_id}/resubmit")
    await world.go_on(5)

    assert (before, answer.status_code) == ("asset_lost", 202)
    assert (await world.task(caller.task_id))["status"] == "stored"
