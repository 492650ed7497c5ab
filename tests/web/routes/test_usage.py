"""The usage over HTTP: its period, and the access of keys."""

import csv
import io
import threading
from dataclasses import replace
from typing import Any

import pytest

from app.db.tables import api_keys
from app.db.tables.api_keys import ApiKeyChange
from tests.applications import application
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


async def test_a_total_has_no_rest_of_binary_fractions(each_world: World) -> None:
    small(each_world)
    each_world.twin.rules = each_world.twin.rules.model_copy(update={"settled_cost": 1.4})
    for _ in range(3):
        await each_world.post()
    await each_world.work()
    await each_world.go_on(10)
    (row,) = (await used(each_world))["usage"]

    assert (row["stored"], row["cost"]) == (3, 4.2)


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


async def posted_by_two(world: World) -> None:
    """Two applications post tasks of two models on two days; one task is stored and one is cancelled."""
    small(world)
    shop = await application(world, "shop")
    await world.post()
    await world.go_on(10)
    cancelled = await world.post(model="flux-kontext-max")
    await world.api.post(f"/v1/tasks/{cancelled}/cancel")
    world.clock.advance(24 * 3600)
    await world.outsider.post("/v1/tasks", json={"prompt": "a fox"}, headers=shop)
    world.clock.advance(1)


async def test_usage_is_grouped_as_asked_with_estimates_apart(each_world: World) -> None:
    await posted_by_two(each_world)
    stated = each_world.ledger()["tasks"][0]["cost"]
    by_application = await used(each_world, by="application")
    by_day = await used(each_world, by=["day", "model", "account"])
    counts = {
        "stored": 0,
        "failed": 0,
        "cancelled": 0,
        "open": 0,
        "cost": 0.0,
        "cost_estimated": 0.0,
        "cost_unknown": 0,
    }
    account = {"account_id": "account"}
    admin = {"application_id": "app_admin", "application_name": "admin"}
    shop = {"application_id": "app_shop", "application_name": "shop"}

    assert by_application["by"] == ["application"]
    assert by_application["usage"] == [
        {**admin, **counts, "posted": 2, "stored": 1, "cancelled": 1, "cost": stated},
        {**shop, **counts, "posted": 1, "open": 1, "cost_unknown": 1, "cost_estimated": 4.0},
    ]
    assert [(each["day"], each["model"], each["posted"]) for each in by_day["usage"]] == [
        ("2026-01-01", "flux-kontext-max", 1),
        ("2026-01-01", "flux-kontext-pro", 1),
        ("2026-01-02", "flux-kontext-pro", 1),
    ]
    assert {each["account_id"] for each in by_day["usage"]} == set(account.values())


async def test_an_application_sees_its_own_groups_only(world: World) -> None:
    await posted_by_two(world)
    shop = {"x-key": "the key of shop, for tests only"}

    own = (await world.outsider.get("/v1/usage", params={"by": ["application", "key"]}, headers=shop)).json()["usage"]

    assert [(each["application_id"], each["key_name"]) for each in own] == [("app_shop", "shop")]


@pytest.mark.parametrize("ask", [{"params": {"format": "csv"}}, {"headers": {"accept": "text/csv"}}])
async def test_usage_is_a_table_in_csv(world: World, ask: dict[str, Any]) -> None:
    await world.post()
    world.clock.advance(1)
    await world.use.db.write(api_keys.change, "key_admin", ApiKeyChange(name='=1+"1"'))

    answer = await world.api.get("/v1/usage", **ask)

    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert list(csv.DictReader(io.StringIO(answer.text))) == [
        {
            "key_id": "key_admin",
            "key_name": '\'=1+"1"',
            "model": "flux-kontext-pro",
            "posted": "1",
            "stored": "0",
            "failed": "0",
            "cancelled": "0",
            "open": "1",
            "cost": "0.0",
            "cost_estimated": "4.0",
            "cost_unknown": "1",
        }
    ]


async def test_grouped_usage_is_rendered_in_one_thread_outside_the_event_loop(world: World) -> None:
    for form in ("json", "csv", "json"):
        assert (await world.api.get("/v1/usage", params={"by": "day", "format": form})).status_code == 200

    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("usage")] == ["usage_0"]


async def test_usage_is_grouped_by_end_user_and_an_erased_task_has_none(each_world: World) -> None:
    small(each_world)
    erased = await each_world.post(user="ann")
    await each_world.post(user="ann")
    await each_world.post()
    await each_world.go_on(10)
    await each_world.api.delete(f"/v1/tasks/{erased}")

    found = (await used(each_world, by="user"))["usage"]

    assert {each["user"]: each["posted"] for each in found} == {"ann": 1, None: 2}


async def test_an_unknown_group_is_refused(world: World) -> None:
    problem(await world.api.get("/v1/usage", params={"by": "colour"}), 422)


async def test_the_cost_of_an_erased_task_stays_in_its_group(world: World) -> None:
    small(world)
    task_id = await world.post()
    await world.go_on(10)
    before = await used(world, by=["account", "day"])
    await world.api.delete(f"/v1/tasks/{task_id}")

    assert (await used(world, by=["account", "day"]))["usage"] == before["usage"]
