"""Deliveries and endpoints over HTTP: lists, replays, tests, and the access of keys."""

from typing import Any

import pytest
from starlette.responses import Response

from app.db.tables import api_keys
from app.db.tables.api_keys import NewApiKey
from app.web.auth import digest_of
from tests.receivers import URL, deliveries, ended, endpoint, only_delivery, receiver
from tests.world import World

NOBODY = "0" * 37


async def key_for(world: World, name: str) -> dict[str, str]:
    """The headers of a key without scopes."""
    key = NewApiKey(f"key_{name}", name, digest_of(f"{name}'s key"), [], world.clock.at)
    await world.use.db.write(lambda connection: api_keys.put(connection, key))
    return {"authorization": f"Bearer {name}'s key"}


async def given_up(world: World, **params: Any) -> dict[str, Any]:
    """A delivery whose endpoint answered 410."""
    receiver(world, 410)
    await ended(world, **params)
    return await only_delivery(world)


async def replay(world: World, **changes: Any) -> Any:
    window = {"from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z"}
    return await world.api.post("/v1/deliveries/replay", json={**window, **changes})


async def resume(world: World) -> None:
    found = await endpoint(world)
    assert (await world.api.post(f"/v1/endpoints/{found['id']}/resume")).status_code == 200


async def test_deliveries_are_listed_newest_first_in_pages(each_world: World) -> None:
    receiver(each_world)
    first, second, third = [await ended(each_world) for _ in range(3)]
    answer = (await each_world.api.get("/v1/deliveries", params={"limit": 2})).json()
    rest = (await each_world.api.get("/v1/deliveries", params={"cursor": answer["next_cursor"]})).json()

    assert [each["task_id"] for each in answer["deliveries"]] == [third, second]
    assert [each["task_id"] for each in rest["deliveries"]] == [first]
    assert rest["next_cursor"] is None


async def test_deliveries_are_found_by_task_state_and_endpoint(each_world: World) -> None:
    receiver(each_world, 200, 500)
    first = await ended(each_world)
    second = await ended(each_world)
    (waiting,) = await deliveries(each_world, state="waiting")
    (of_first,) = await deliveries(each_world, task_id=first)

    assert waiting["task_id"] == second
    assert of_first["state"] == "delivered"
    assert of_first["due_at"] is None
    assert len(await deliveries(each_world, endpoint_id=waiting["endpoint_id"])) == 2
    assert await deliveries(each_world, endpoint_id=f"ep_{NOBODY}") == []


async def test_a_successful_delivery_can_be_replayed_and_keeps_its_id(world: World) -> None:
    heard = receiver(world)
    await ended(world)
    (before,) = await deliveries(world)
    answer = await world.api.post(f"/v1/deliveries/{before['id']}/replay")
    await world.work()
    after = await only_delivery(world)

    assert (answer.status_code, answer.json()["state"], answer.json()["tries"]) == (202, "waiting", 0)
    assert heard.ids == [before["id"]] * 2
    assert (after["state"], len(after["attempts"])) == ("delivered", 2)


async def test_all_deliveries_given_up_in_a_period_are_replayed_at_once(each_world: World) -> None:
    heard = receiver(each_world, 410)
    for _ in range(3):
        await ended(each_world)
    await resume(each_world)
    heard.answers = [Response()]
    outside = await replay(each_world, to="2026-01-01T00:00:01Z")
    elsewhere = await replay(each_world, endpoint_id=f"ep_{NOBODY}")
    answer = await replay(each_world)
    await each_world.work()

    assert (outside.json()["replayed"], elsewhere.json()["replayed"]) == (0, 0)
    assert (answer.status_code, answer.json()) == (202, {"replayed": 3, "more": False})
    assert {each["state"] for each in await deliveries(each_world)} == {"delivered"}


async def test_a_delivery_replayed_to_a_gone_endpoint_waits_until_it_is_resumed(world: World) -> None:
    before = await given_up(world)
    heard = receiver(world, 200)
    await world.api.post(f"/v1/deliveries/{before['id']}/replay")
    await world.go_on(3600, 600)
    waiting = await only_delivery(world)
    await resume(world)
    await world.work()

    assert (waiting["state"], (await only_delivery(world))["state"]) == ("waiting", "delivered")
    assert len(heard.requests) == 1


async def test_a_test_says_that_it_is_one_in_both_forms(world: World) -> None:
    heard = receiver(world)
    for form in ("provider", "event"):
        body = {"webhook_url": URL, "webhook_form": form, "webhook_secret": "hush"}
        assert (await world.api.post("/v1/endpoints/test", json=body)).status_code == 202
        await world.work()

    assert b'"status":"Pending"' in heard.bodies[0]
    assert heard.bodies[1].startswith(b'{"type":"test"')
    assert all("x-bfl-signature" in each.headers for each in heard.requests)


@pytest.mark.parametrize("url", ["http://app.example.com/", "nonsense", None], ids=["http", "no address", "none"])
async def test_a_test_needs_a_url_that_webhooks_may_use(world: World, url: str | None) -> None:
    answer = await world.api.post("/v1/endpoints/test", json={"webhook_url": url})

    assert (answer.status_code, set(answer.json()["fields"])) == (422, {"webhook_url"})


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"/v1/deliveries/dlv_{NOBODY}"),
        ("POST", f"/v1/deliveries/dlv_{NOBODY}/replay"),
        ("GET", "/v1/deliveries/nothing"),
        ("POST", f"/v1/endpoints/ep_{NOBODY}/resume"),
        ("POST", "/v1/endpoints/x/resume"),
    ],
    ids=["delivery", "replay", "no id", "endpoint", "no endpoint id"],
)
async def test_an_unknown_delivery_or_endpoint_is_not_found(world: World, method: str, path: str) -> None:
    assert (await world.api.request(method, path)).status_code == 404


@pytest.mark.parametrize(
    "changes",
    [
        {"from": "2026-01-03T00:00:00Z"},
        {"to": "tomorrow"},
        {"from": "2026-01-01T00:00:00"},
        {"from": "0001-01-01T00:00:00+14:00"},
        {"to": "9999-12-31T23:59:59-14:00"},
        {"endpoint_id": "\0"},
        {"all": True},
    ],
    ids=["backwards", "no instant", "no zone", "before all years", "after all years", "no endpoint", "unknown"],
)
async def test_an_invalid_request_replays_nothing(each_world: World, changes: dict[str, Any]) -> None:
    assert (await replay(each_world, **changes)).status_code == 422


async def test_a_key_sees_and_replays_its_own_deliveries_and_the_admin_key_all(each_world: World) -> None:
    mine = await given_up(each_world)
    theirs = await key_for(each_world, "theirs")
    path = f"/v1/deliveries/{mine['id']}"
    at = f"/v1/endpoints/{mine['endpoint_id']}/resume"
    window = {"from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z"}

    assert (await each_world.outsider.get("/v1/deliveries", headers=theirs)).json()["deliveries"] == []
    assert (await each_world.outsider.get("/v1/endpoints", headers=theirs)).json()["endpoints"] == []
    assert (await each_world.outsider.get(path, headers=theirs)).status_code == 404
    assert (await each_world.outsider.post(f"{path}/replay", headers=theirs)).status_code == 404
    assert (await each_world.outsider.post(at, headers=theirs)).status_code == 404
    answer = await each_world.outsider.post("/v1/deliveries/replay", json=window, headers=theirs)
    assert answer.json()["replayed"] == 0
    task = await each_world.outsider.post("/v1/tasks", json={"prompt": "a fox", "webhook_url": URL}, headers=theirs)
    await each_world.api.post(f"/v1/tasks/{task.json()['id']}/cancel")
    assert len((await each_world.outsider.get("/v1/deliveries", headers=theirs)).json()["deliveries"]) == 1
    assert len(await deliveries(each_world)) == 2


async def test_the_same_address_of_two_keys_is_two_endpoints_with_secrets_of_their_own(world: World) -> None:
    await given_up(world)
    theirs = await key_for(world, "theirs")
    world.clock.advance(1)
    await world.outsider.post("/v1/endpoints/test", json={"webhook_url": URL}, headers=theirs)
    secrets = {
        (await world.outsider.get("/v1/endpoints/secret", headers=headers)).json()["secret"]
        for headers in (theirs, world.api.headers)
    }
    states = [each["state"] for each in (await world.api.get("/v1/endpoints")).json()["endpoints"]]

    assert states == ["active", "gone"]
    assert len(secrets) == 2


async def test_deliveries_and_endpoints_require_a_key(world: World) -> None:
    for path in ("/v1/deliveries", "/v1/endpoints", "/v1/endpoints/secret"):
        assert (await world.outsider.get(path)).status_code == 401
