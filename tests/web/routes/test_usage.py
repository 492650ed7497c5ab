"""The usage over HTTP: its period, and the access of keys."""

from dataclasses import replace
from typing import Any

import pytest

from tests.calling import small
from tests.web.documents import problem
from tests.web.routes.test_deliveries import key_for
from tests.world import GATEWAY, World


async def used(world: World, **span: Any) -> dict[str, Any]:
    answer = await world.api.get("/v1/usage", params=span)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_tasks_are_counted_and_their_cost_is_what_the_provider_charged(each_world: World) -> None:
    small(each_world)
    await each_world.post()
    await each_world.post(model="flux-kontext-max")
    await each_world.go_on(10)
    cancelled = await each_world.post()
    await each_world.api.post(f"/v1/tasks/{cancelled}/cancel")
    await each_world.post()
    each_world.clock.advance(1)
    found = await used(each_world)
    costs = {task["model"]: task["cost"] for task in each_world.ledger()["tasks"]}
    pro, most = found["usage"][::-1]

    assert (found["from"], found["to"]) == ("2025-12-02T12:00:11Z", "2026-01-01T12:00:11Z")
    assert pro == {
        "key_id": "key_admin",
        "key_name": "admin",
        "model": "flux-kontext-pro",
        "posted": 3,
        "stored": 1,
        "failed": 0,
        "cancelled": 1,
        "open": 1,
        "cost": costs["flux-kontext-pro"],
        "cost_unknown": 1,
    }
    assert (most["model"], most["posted"], most["cost"]) == ("flux-kontext-max", 1, costs["flux-kontext-max"])


@pytest.mark.parametrize("public_url", [GATEWAY, None], ids=["callbacks", "polls"])
async def test_the_usage_follows_what_the_provider_settles_for(world: World, public_url: str | None) -> None:
    small(world)
    world.use = replace(world.use, public_url=public_url)
    world.twin.rules = world.twin.rules.model_copy(update={"settled_cost": 0})
    task_id = await world.post()
    await world.work()
    estimated = (await world.task(task_id))["cost"]
    await world.go_on(10)
    (row,) = (await used(world))["usage"]

    assert (estimated, (await world.task(task_id))["cost"]) == (4.0, 0.0)
    assert (row["stored"], row["cost"], row["cost_unknown"]) == (1, 0.0, 0)
    assert world.ledger()["charged"] == 0


async def test_only_tasks_posted_in_the_period_count(world: World) -> None:
    await world.post()
    world.clock.advance(3600)
    await world.post()
    spans = [
        {"from": "2026-01-01T12:00:00Z", "to": "2026-01-01T13:00:00Z"},
        {"from": "2026-01-01T12:00:00Z", "to": "2026-01-01T13:00:01Z"},
        {"from": "2026-01-01T14:30:00+02:00", "to": "2026-01-01T14:00:00Z"},
        {"to": "2026-01-01T12:00:00Z"},
        {"from": "0001-01-01T00:00:00Z", "to": "0001-12-31T00:00:00Z"},
        {"from": "9999-01-01T00:00:00Z", "to": "9999-12-31T00:00:00Z"},
    ]
    found = [(await used(world, **span))["usage"] for span in spans]

    assert [sum(each["posted"] for each in page) for page in found] == [1, 2, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("span", "field", "reason"),
    [
        ({"from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, "to", "must come after `from`"),
        ({"from": "2026-01-01T12:00:00Z", "to": "2026-01-01T12:00:00Z"}, "to", "must come after `from`"),
        ({"from": "2027-01-01T12:00:00Z"}, "to", "must come after `from`"),
        ({"to": "0001-01-01T00:00:00Z"}, "to", "must come after `from`"),
        ({"from": "2024-12-31T11:59:59Z"}, "to", "must be at most 366 days after `from`"),
        ({"from": "2026-01-01"}, "from", "zone"),
        ({"to": "tomorrow"}, "to", "must be a time with a time zone"),
        ({"to": "1764547200"}, "to", "not a number"),
    ],
    ids=["backwards", "nothing", "from later on", "before all years", "too long", "no zone", "no instant", "a number"],
)
async def test_an_invalid_period_is_refused_with_a_reason(
    world: World, span: dict[str, str], field: str, reason: str
) -> None:
    found = problem(await world.api.get("/v1/usage", params=span), 422)

    assert found["fields"].keys() == {field}
    assert reason in found["detail"]


async def test_a_period_of_a_leap_year_is_accepted(world: World) -> None:
    assert (await used(world, **{"from": "2024-01-01T00:00:00Z", "to": "2025-01-01T00:00:00Z"}))["usage"] == []


async def test_a_key_sees_its_own_usage_and_the_admin_key_all(each_world: World) -> None:
    theirs = await key_for(each_world, "theirs")
    await each_world.post()
    await each_world.outsider.post("/v1/tasks", json={"prompt": "a fox"}, headers=theirs)
    each_world.clock.advance(1)
    own = (await each_world.outsider.get("/v1/usage", headers=theirs)).json()["usage"]

    assert [(each["key_id"], each["key_name"]) for each in own] == [("key_theirs", "theirs")]
    assert {each["key_name"] for each in (await used(each_world))["usage"]} == {"admin", "theirs"}


async def test_usage_requires_a_key(world: World) -> None:
    problem(await world.outsider.get("/v1/usage"), 401)
