"""Budgets over HTTP: what is refused, what it says, and what frees credits again."""

import asyncio
import json
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook

from app.rules.budget import Budget
from app.twin import Faults
from tests.applications import application
from tests.calling import small
from tests.receivers import SECRET, URL, receiver
from tests.web.documents import nothing_recorded, problem, rows
from tests.world import World

PRICE = 4.0  # of flux-kontext-pro


async def post(world: World, headers: dict[str, str], **members: Any) -> httpx.Response:
    extra = {"idempotency-key": members.pop("key")} if "key" in members else {}
    body = {"prompt": "a red fox", **members}
    return await world.outsider.post("/v1/tasks", json=body, headers={**headers, **extra})


async def test_a_task_beyond_the_budget_is_refused_with_what_is_left_and_when_it_resets(each_world: World) -> None:
    shop = await application(each_world, "shop", budget=(6, "day"))
    assert (await post(each_world, shop)).status_code == 202

    found = problem(await post(each_world, shop), 402, "budget_exceeded")

    assert (found["remaining"], found["resets_at"]) == (2, "2026-01-02T00:00:00Z")
    assert "retry-after" not in (await post(each_world, shop)).headers
    assert (await rows(each_world))["tasks"] == 1


async def test_every_door_refuses_a_task_beyond_the_budget(world: World) -> None:
    shop = await application(world, "shop", budget=(1, "month"))
    native = await post(world, shop)
    theirs = [
        await world.outsider.post(f"{mount}/v1/flux-kontext-pro", json={"prompt": "a fox"}, headers=shop)
        for mount in ("", "/flux")
    ]

    for answer in (native, *theirs):
        found = problem(answer, 402, "budget_exceeded")
        assert (found["remaining"], found["resets_at"]) == (1, "2026-02-01T00:00:00Z")
    assert await nothing_recorded(world)


async def test_the_tasks_of_one_request_are_reserved_all_or_none(world: World) -> None:
    shop = await application(world, "shop", limits={"queued": 3}, budget=(2 * PRICE + 1, "day"))
    asked = {"prompt": "a red fox", "model": "flux-kontext-pro"}

    three = await world.outsider.post("/openai/v1/images/generations", json={**asked, "n": 3}, headers=shop)
    four = await world.outsider.post("/openai/v1/images/generations", json={**asked, "n": 4}, headers=shop)

    assert (three.status_code, four.status_code) == (402, 429)
    assert three.json()["error"].items() >= {"code": "insufficient_quota", "remaining": 9.0}.items()
    assert four.json()["error"].items() >= {"code": "rate_limit_exceeded", "limit": "queued"}.items()
    assert await nothing_recorded(world)


async def test_exactly_the_affordable_number_of_parallel_posts_passes(each_world: World) -> None:
    each_world.use = replace(each_world.use, budget=Budget.parse("400/day"))
    shop = await application(each_world, "shop", budget=(5 * PRICE, "day"))

    answers = await asyncio.gather(*(post(each_world, shop) for _ in range(12)))

    assert Counter(answer.status_code for answer in answers) == {202: 5, 402: 7}
    assert {answer.json()["remaining"] for answer in answers if answer.status_code == 402} == {0}


async def made(world: World, amount: float) -> tuple[str, dict[str, str]]:
    """Make an application with a budget by the API; return its path, and the headers of a key."""
    budget = {"credits": amount, "period": "day"}
    application_id = (await world.api.post("/v1/applications", json={"name": "shop", "budget": budget})).json()["id"]
    path = f"/v1/applications/{application_id}"
    return path, {"x-key": (await world.api.post(f"{path}/keys", json={"name": "shop"})).json()["key"]}


@pytest.mark.parametrize("between", [None, {"credits": 100, "period": "month"}], ids=["none", "another period"])
async def test_a_budget_that_returns_counts_what_was_posted_without_it(
    each_world: World, between: dict[str, Any] | None
) -> None:
    path, shop = await made(each_world, 2 * PRICE)
    budget = {"credits": 3 * PRICE, "period": "day"}
    assert (await post(each_world, shop)).status_code == 202
    assert (await each_world.api.patch(path, json={"budget": between})).status_code == 200
    assert [(await post(each_world, shop)).status_code for _ in range(2)] == [202, 202]
    await each_world.api.patch(path, json={"budget": budget})
    shown = (await each_world.outsider.get("/v1/limits", headers=shop)).json()["budget"]

    found = problem(await post(each_world, shop), 402, "budget_exceeded")

    assert (shown["spent"], shown["remaining"], found["remaining"]) == (3 * PRICE, 0, 0)


async def test_a_budget_that_only_grows_counts_no_task_twice(each_world: World) -> None:
    path, shop = await made(each_world, PRICE)
    assert (await post(each_world, shop)).status_code == 202
    for allowed in (2 * PRICE, 3 * PRICE):
        await each_world.api.patch(path, json={"budget": {"credits": allowed, "period": "day"}})
    shown = (await each_world.outsider.get("/v1/limits", headers=shop)).json()["budget"]

    assert (shown["spent"], shown["remaining"]) == (PRICE, 2 * PRICE)


async def test_the_budget_of_the_service_stops_all_applications(world: World) -> None:
    app: Any = world.network.hosts["gateway"]
    app.app.state.use = replace(world.use, budget=Budget.parse("5/day"))
    shop, club = await application(world, "shop"), await application(world, "club")
    assert (await post(world, shop)).status_code == 202

    found = problem(await post(world, club), 402, "budget_exceeded")

    assert found["detail"].startswith("the budget of this service is 5/day credits")


async def test_a_repeated_request_costs_nothing_and_a_refused_one_can_be_sent_again(world: World) -> None:
    shop = await application(world, "shop", budget=(PRICE, "day"))
    first, again = [await post(world, shop, key="one") for _ in range(2)]
    refused = await post(world, shop, key="two")
    world.clock.advance(12 * 3600)
    next_day = await post(world, shop, key="two")

    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json()["id"] == first.json()["id"]
    assert (refused.status_code, next_day.status_code) == (402, 202)


async def test_a_cancelled_task_frees_its_credits_and_a_stored_one_counts_with_its_cost(each_world: World) -> None:
    small(each_world)
    each_world.twin.rules = each_world.twin.rules.model_copy(update={"settled_cost": 1.0})
    shop = await application(each_world, "shop", budget=(PRICE, "day"))
    cancelled = (await post(each_world, shop)).json()["id"]
    await each_world.api.post(f"/v1/tasks/{cancelled}/cancel")
    assert (await post(each_world, shop)).status_code == 202
    await each_world.go_on(10)

    found = problem(await post(each_world, shop), 402)

    assert found["remaining"] == PRICE - 1


async def test_a_budget_that_is_nearly_used_leaves_one_event_in_the_feed_of_its_application(
    each_world: World,
) -> None:
    small(each_world)
    shop = await application(each_world, "shop", budget=(5 * PRICE, "day"))
    other = await application(each_world, "other")
    posted = [(await post(each_world, shop)).json()["id"] for _ in range(5)]
    params = {"after": "start", "kind": "budget.warning"}
    found = (await each_world.outsider.get("/v1/events", params=params, headers=shop)).json()["events"]
    foreign = (await each_world.outsider.get("/v1/events", params=params, headers=other)).json()["events"]
    await each_world.go_on(12)
    stream = await each_world.outsider.get(f"/v1/tasks/{posted[3]}/events", headers=shop)

    (event,) = found
    assert (event["kind"], event["task_id"]) == ("budget.warning", posted[3])
    assert event["data"] == {
        "budget": {"credits": 5 * PRICE, "period": "day"},
        "spent": 4 * PRICE,
        "remaining": PRICE,
        "resets_at": "2026-01-02T00:00:00Z",
    }
    assert foreign == []
    assert "event: task.stored" in stream.text
    assert "budget.warning" not in stream.text


@pytest.mark.parametrize("form", ["provider", "event"])
async def test_a_budget_that_is_nearly_used_is_reported_to_the_default_webhook_once_in_each_period(
    each_world: World, form: str
) -> None:
    small(each_world)
    defaults = {"webhook_url": URL, "webhook_secret": SECRET, "webhook_form": form}
    budget, heard = {"credits": 5 * PRICE, "period": "day"}, receiver(each_world)
    made = await each_world.api.post("/v1/applications", json={"name": "shop", "budget": budget, **defaults})
    key = await each_world.api.post(f"/v1/applications/{made.json()['id']}/keys", json={"name": "first"})
    shop = {"x-key": key.json()["key"]}
    for _ in range(2):
        for _ in range(5):
            assert (await post(each_world, shop)).status_code == 202
        await each_world.go_on(10)
        each_world.clock.advance(86400)

    pairs = zip(heard.bodies, heard.requests, strict=True)
    (body, request), _ = [pair for pair in pairs if b"budget.warning" in pair[0]]
    sent_at = datetime.fromtimestamp(int(request.headers["webhook-timestamp"]), UTC)
    signature = Webhook(SECRET).sign(request.headers["webhook-id"], sent_at, body.decode())
    assert request.headers["webhook-signature"] == signature
    message = json.loads(body)
    assert message["data"] == {
        "budget": {"credits": 5 * PRICE, "period": "day"},
        "spent": 4 * PRICE,
        "remaining": PRICE,
        "resets_at": "2026-01-02T00:00:00.000Z",
    }
    assert message.get("status") == ("Pending" if form == "provider" else None)
    (delivery, _) = [
        row
        for row in (await each_world.outsider.get("/v1/deliveries?limit=100", headers=shop)).json()["deliveries"]
        if row["about"] == "budget.warning"
    ]
    assert (delivery["task_id"], delivery["state"]) == (None, "delivered")
    found = await each_world.outsider.get(f"/v1/deliveries/{delivery['id']}", headers=shop)
    assert found.json()["attempts"][0]["http_status"] == 200


async def test_a_budget_warning_without_a_default_webhook_is_an_event_alone(world: World) -> None:
    shop = await application(world, "shop", budget=(5 * PRICE, "day"))
    for _ in range(5):
        await post(world, shop, webhook_url=URL)

    assert (await world.outsider.get("/v1/deliveries", headers=shop)).json()["deliveries"] == []


async def lost(world: World, headers: dict[str, str]) -> str:
    """Post a task whose outcome stays unknown."""
    world.twin.faults = Faults(lose_answer_after=1, drop_callback=1)
    task_id = str((await post(world, headers)).json()["id"])
    await world.go_on(1200, step=30)
    assert (await world.task(task_id))["failure"]["code"] == "unknown_outcome"
    return task_id


async def test_a_task_of_unknown_outcome_counts_until_a_person_states_what_it_cost(world: World) -> None:
    small(world)
    shop = await application(world, "shop", budget=(PRICE, "day"))
    task_id = await lost(world, shop)
    assert (await post(world, shop)).status_code == 402

    own = await world.outsider.post(f"/v1/tasks/{task_id}/settle", json={"cost": 0}, headers=shop)
    settled = await world.api.post(f"/v1/tasks/{task_id}/settle", json={"cost": 0})

    problem(own, 403)  # else an application could free its own budget
    assert settled.status_code == 200, settled.text
    assert (settled.json()["cost"], settled.json()["estimated_cost"]) == (None, 0)
    assert (await post(world, shop)).status_code == 202


async def test_only_an_ended_task_of_unknown_cost_can_be_settled_by_a_person(world: World) -> None:
    small(world)
    open_task = await world.post()
    conflict = await world.api.post(f"/v1/tasks/{open_task}/settle", json={"cost": 0})
    await world.go_on(10)
    known = await world.api.post(f"/v1/tasks/{open_task}/settle", json={"cost": 0})
    missing = await world.api.post(f"/v1/tasks/task_{'0' * 37}/settle", json={"cost": 0})
    negative = await world.api.post(f"/v1/tasks/{open_task}/settle", json={"cost": -1})

    assert "not ended" in problem(conflict, 409)["detail"]
    assert "stated its cost" in problem(known, 409)["detail"]
    problem(missing, 404)
    problem(negative, 422)
