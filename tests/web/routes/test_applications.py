"""Applications and the lives of their keys: made, used, expired, revoked."""

import asyncio
import base64
import hmac
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from app.db.tables import api_keys
from app.web.feed import Feed
from app.web.key_use import KeyUse
from tests.calling import everything, small
from tests.receivers import HOST, receiver
from tests.rows import plan_task
from tests.sockets import until
from tests.web.routes.test_keys import pages_of
from tests.world import World

REVOKED = "0" * 37
BUDGET = {"credits": 40, "period": "day"}


async def application(world: World, **members: Any) -> dict[str, Any]:
    answer = await world.api.post("/v1/applications", json={"name": "shop", **members})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def key_of(world: World, application_id: str, **members: Any) -> dict[str, Any]:
    answer = await world.api.post(f"/v1/applications/{application_id}/keys", json={"name": "first", **members})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def headers(key: Mapping[str, Any]) -> dict[str, str]:
    return {"x-key": key["key"]}


async def post_task(world: World, key: Mapping[str, Any]) -> str:
    answer = await world.outsider.post("/v1/tasks", json={"prompt": "a red fox"}, headers=headers(key))
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


async def revoke(world: World, key: Mapping[str, Any], **query: str) -> None:
    assert (await world.api.delete(f"/v1/keys/{key['id']}", params=query)).status_code == 200


NOT_INTEGERS: list[Any] = [True, 1.0, "1", [1], {}]
WRONG_TYPES: list[tuple[str, str, dict[str, Any]]] = [
    *(
        ("/v1/applications", f"limits.{name}", {"name": "shop", "limits": {name: value}})
        for name in ("in_flight", "queued", "posts_per_minute", "uploads", "streams", "deliveries", "priority")
        for value in NOT_INTEGERS
    ),
    ("/v1/applications", "retention_days.images", {"name": "shop", "retention_days": {"images": False}}),
    ("/v1/applications", "retention_days.tasks", {"name": "shop", "retention_days": {"tasks": 30.0}}),
    ("/v1/applications", "budget.credits", {"name": "shop", "budget": {"credits": True, "period": "day"}}),
    ("/v1/applications", "budget.credits", {"name": "shop", "budget": {"credits": "40", "period": "day"}}),
    ("/v1/applications", "join_retries", {"name": "shop", "join_retries": 1}),
    ("/v1/applications", "name", {"name": 5}),
    ("/v1/keys", "scopes", {"name": "shop", "scopes": "read"}),
    ("/v1/keys", "expires_at", {"name": "shop", "expires_at": 1.5}),
    ("/v1/tasks/task_0000000000000000000000000000000000000/settle", "cost", {"cost": True}),
]


async def test_a_value_of_another_type_is_refused(world: World) -> None:
    for path, name, body in WRONG_TYPES:
        answer = await world.api.post(path, json=body)

        assert answer.status_code == 422, (path, body, answer.text)
        assert list(answer.json()["fields"]) == [name]
    changed = await world.api.patch("/v1/applications/app_admin", json={"disabled": 0})
    assert (changed.status_code, list(changed.json()["fields"])) == (422, ["disabled"])


async def test_an_application_is_made_shown_changed_and_disabled(each_world: World) -> None:
    limits, retention = {"queued": 100, "priority": 3, "streams": None}, {"images": 30, "tasks": 365}
    made = await application(each_world, budget=BUDGET, limits=limits, retention_days=retention)
    path = f"/v1/applications/{made['id']}"
    key = await key_of(each_world, made["id"])
    changed = (await each_world.api.patch(path, json={"budget": None, "name": "store"})).json()
    before = await each_world.outsider.get("/v1/tasks", headers=headers(key))
    disabled = await each_world.api.delete(path)
    after = await each_world.outsider.get("/v1/tasks", headers=headers(key))
    listed = (await each_world.api.get("/v1/applications")).json()["applications"]

    assert (made["budget"], made["limits"], made["retention_days"]) == (BUDGET, limits, retention)
    assert (changed["name"], changed["budget"], changed["limits"]) == ("store", None, limits)
    assert (before.status_code, disabled.status_code, after.status_code) == (200, 200, 401)
    assert disabled.json()["disabled_at"] is not None
    assert disabled.json() in listed


async def test_applications_are_listed_in_pages(each_world: World) -> None:
    made = []
    for _ in range(4):
        each_world.clock.advance(1)
        made.append((await application(each_world))["id"])
    pages = await pages_of(each_world, "/v1/applications", "applications")
    whole = (await each_world.api.get("/v1/applications")).json()

    assert [len(page) for page in pages] == [2, 2, 1]
    assert [app_id for page in pages for app_id in page] == ["app_admin", *reversed(made)]
    assert [row["id"] for row in whole["applications"]] == ["app_admin", *reversed(made)]
    assert whole["next_cursor"] is None


HOOK = {
    "webhook_url": f"https://{HOST}/default",
    "webhook_secret": "the secret of the application",
    "webhook_form": "event",
    "webhook_events": ["submitted"],
}


async def test_a_task_without_a_webhook_has_that_of_its_key_or_else_of_its_application(each_world: World) -> None:
    heard = receiver(each_world)
    small(each_world)
    made = await application(each_world, **HOOK)
    key = await key_of(each_world, made["id"])
    own = await key_of(each_world, made["id"], webhook_url=f"https://{HOST}/of-the-key", webhook_form="provider")
    tasks = [await post_task(each_world, of) for of in (key, own)]
    await each_world.go_on(6)
    shown = [(await each_world.task(task_id))["webhook"] for task_id in tasks]
    cleared = await each_world.api.patch(f"/v1/applications/{made['id']}", json={"webhook_url": None})
    without = await post_task(each_world, key)

    assert made["webhook"] == {"url": HOOK["webhook_url"], "form": "event", "events": ["submitted"]}
    assert [(webhook["url"], webhook["form"]) for webhook in shown] == [
        (HOOK["webhook_url"], "event"),
        (f"https://{HOST}/of-the-key", "provider"),
    ]
    assert {request.url.path for request in heard.requests} == {"/default", "/of-the-key"}
    for request, body in zip(heard.requests, heard.bodies, strict=True):
        signed = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode() + body
        expected = hmac.digest(b"the secret of the application", signed, "sha256")
        assert base64.b64encode(expected).decode() in request.headers["webhook-signature"]
    assert cleared.json()["webhook"] is None
    assert (await each_world.task(without))["webhook"] is None


async def test_the_webhook_secret_of_an_application_is_never_shown(each_world: World) -> None:
    made = await application(each_world, **HOOK)
    path = f"/v1/applications/{made['id']}"
    await each_world.api.patch(path, json={"webhook_secret": "another secret of the application"})
    answers = [await each_world.api.get(shown) for shown in (path, "/v1/applications", "/v1/audit", "/v1/keys")]
    stored = await each_world.use.db.read(everything)

    assert not any("secret of the application" in answer.text for answer in answers)
    assert b"secret of the application" not in stored
    assert (await each_world.api.patch(path, json={"webhook_url": f"http://{HOST}/"})).status_code == 422


async def test_a_disabled_application_can_be_enabled_again(each_world: World) -> None:
    made = await application(each_world)
    path = f"/v1/applications/{made['id']}"
    key, revoked = [await key_of(each_world, made["id"]) for _ in range(2)]
    await revoke(each_world, revoked)
    await each_world.api.delete(path)
    refused = await each_world.outsider.get("/v1/tasks", headers=headers(key))
    enabled = await each_world.api.patch(path, json={"disabled": False})
    opened = [(await each_world.outsider.get("/v1/tasks", headers=headers(of))).status_code for of in (key, revoked)]
    task_id = await post_task(each_world, key)
    await each_world.go_on(60, 5)
    audited = (await each_world.api.get("/v1/audit", params={"subject": made["id"]})).json()["records"]

    assert (refused.status_code, enabled.status_code, enabled.json()["disabled_at"]) == (401, 200, None)
    assert opened == [200, 401]
    assert (await each_world.task(task_id))["status"] == "stored"
    assert (audited[0]["action"], audited[0]["detail"]) == ("application.changed", {"changed": "disabled"})
    assert (await each_world.api.patch(path, json={"disabled": True})).status_code == 422


@pytest.mark.parametrize(("queued", "status"), [("stop", "cancelled"), ("finish", "stored")])
async def test_the_queued_tasks_of_a_disabled_application_stop_or_finish(
    each_world: World, queued: str, status: str
) -> None:
    made, other = await application(each_world), await application(each_world)
    keys = [await key_of(each_world, made["id"]) for _ in range(2)]
    stopped = [await post_task(each_world, key) for key in keys for _ in range(15)]
    kept = await post_task(each_world, await key_of(each_world, other["id"]))
    await each_world.api.delete(f"/v1/applications/{made['id']}", params={"queued": queued})
    await each_world.work()
    await each_world.go_on(60, 5)

    assert {(await each_world.task(task_id))["status"] for task_id in stopped} == {status}
    assert (await each_world.task(kept))["status"] == "stored"


@pytest.mark.parametrize(("links", "status"), [("keep", 200), ("end", 410)])
async def test_links_of_a_disabled_application_go_on_or_end(world: World, links: str, status: int) -> None:
    made = await application(world)
    key = await key_of(world, made["id"])
    task_id = await post_task(world, key)
    await world.go_on(12)
    polled = (await world.outsider.get(f"/v1/get_result?id={task_id}", headers=headers(key))).json()
    await world.api.delete(f"/v1/applications/{made['id']}", params={"links": links})

    assert (await world.outsider.get(polled["result"]["sample"])).status_code == status


async def test_joining_retries_is_on_until_it_is_turned_off(each_world: World) -> None:
    made, off = await application(each_world), await application(each_world, join_retries=False)
    path = f"/v1/applications/{made['id']}"
    changes = [await each_world.api.patch(path, json={"join_retries": value}) for value in (False, None)]
    renamed = await each_world.api.patch(f"/v1/applications/{off['id']}", json={"name": "store"})
    audited = (await each_world.api.get("/v1/audit", params={"subject": made["id"]})).json()["records"]

    assert (made["join_retries"], off["join_retries"]) == (True, False)
    assert [answer.json()["join_retries"] for answer in changes] == [False, True]
    assert renamed.json()["join_retries"] is False
    assert [record["detail"] for record in audited[:2]] == [{"changed": "join_retries"}] * 2


@pytest.mark.parametrize(
    "given",
    [
        {"name": ""},
        {"budget": {"credits": -1, "period": "day"}},
        {"budget": {"credits": 1, "period": "week"}},
        {"budget": {"credits": 1}},
        {"limits": {"queue": 1}},
        {"limits": {"priority": 10}},
        {"retention_days": {"images": -1}},
        {"join_retries": "no"},
        {"x": 1},
    ],
    ids=["name", "negative", "period", "no period", "unknown limit", "priority", "days", "joining", "unknown"],
)
async def test_an_application_that_breaks_a_rule_is_not_made(world: World, given: dict[str, Any]) -> None:
    assert (await world.api.post("/v1/applications", json={"name": "shop", **given})).status_code == 422


async def test_a_key_is_shown_once_and_recognised_by_its_prefix(world: World) -> None:
    made = await key_of(world, (await application(world))["id"], scopes=["read"])
    shown = [key for key in (await world.api.get("/v1/keys")).json()["keys"] if key["id"] == made["id"]]

    assert made["key"].startswith(made["prefix"])
    assert (made["key"][:3], len(made["prefix"]), made["scopes"]) == ("fh_", 12, ["read"])
    assert shown == [{name: value for name, value in made.items() if name != "key"}]


async def test_a_second_key_takes_over_tasks_webhook_secret_and_idempotency_keys(each_world: World) -> None:
    made = await application(each_world)
    old, new = [await key_of(each_world, made["id"]) for _ in range(2)]
    task_id = await post_task(each_world, old)
    secrets = [await each_world.outsider.get("/v1/endpoints/secret", headers=headers(key)) for key in (old, new)]
    await revoke(each_world, old, queued="finish")
    task = await each_world.outsider.get(f"/v1/tasks/{task_id}", headers=headers(new))

    assert secrets[0].json() == secrets[1].json()
    assert task.status_code == 200


async def test_a_key_is_refused_once_it_has_expired(each_world: World) -> None:
    expires_at = (each_world.clock.at + timedelta(hours=1)).isoformat()
    key = await key_of(each_world, (await application(each_world))["id"], expires_at=expires_at)
    statuses = []
    for _ in range(2):
        statuses.append((await each_world.outsider.get("/v1/tasks", headers=headers(key))).status_code)
        each_world.clock.advance(3600)
    past = {"name": "late", "expires_at": expires_at}

    assert statuses == [200, 401]
    assert (await each_world.api.post("/v1/keys", json=past)).status_code == 422


async def test_the_last_use_of_a_key_is_known_to_a_minute(each_world: World) -> None:
    key = await key_of(each_world, (await application(each_world))["id"])
    row = await each_world.use.db.read(api_keys.get, key["id"])
    assert row is not None
    uses, began = KeyUse(), each_world.clock.at
    for seconds in (0, 20, 20, 20):
        each_world.clock.advance(seconds)
        uses.note(row, each_world.clock.at)
        if seconds == 0:
            await uses.flush(each_world.use.db)
            first = await each_world.use.db.read(api_keys.get, key["id"])
    await uses.flush(each_world.use.db)
    last = await each_world.use.db.read(api_keys.get, key["id"])

    assert first is not None
    assert last is not None
    assert (first.last_used_at, last.last_used_at) == (began, began + timedelta(minutes=1))


@pytest.mark.parametrize(("queued", "status"), [("stop", "cancelled"), ("finish", "stored")])
async def test_the_queued_tasks_of_a_revoked_key_stop_or_finish(each_world: World, queued: str, status: str) -> None:
    made = await application(each_world)
    key, other = [await key_of(each_world, made["id"]) for _ in range(2)]
    revoked = [await post_task(each_world, key) for _ in range(60)]
    kept = await post_task(each_world, other)
    await revoke(each_world, key, queued=queued)
    await each_world.work()
    await each_world.go_on(60, 5)
    states = {(await each_world.task(task_id))["status"] for task_id in revoked}

    assert states == {status}
    assert (await each_world.task(kept))["status"] == "stored"


async def test_a_request_that_was_accepted_before_the_revocation_is_cancelled_by_a_later_sweep(world: World) -> None:
    key = await key_of(world, (await application(world))["id"])
    await revoke(world, key)
    await world.work()
    await world.use.db.write(_post_late, key["id"], world.clock.at)
    world.clock.advance(20)
    await world.work()

    assert (await world.task("task_" + REVOKED))["status"] == "cancelled"


def _post_late(connection: Any, key_id: str, at: Any) -> None:
    plan_task(connection, REVOKED, at, key_id=key_id, account_id="account")


async def test_an_open_stream_and_a_waiting_request_of_a_revoked_key_end(each_world: World) -> None:
    feed = each_world.feed
    feed.check_keys_s = 0.05
    key = await key_of(each_world, (await application(each_world))["id"])
    task_id = await post_task(each_world, key)
    waits = {**headers(key), "prefer": "wait=60"}
    stream = asyncio.create_task(each_world.outsider.get(f"/v1/tasks/{task_id}/events", headers=headers(key)))
    waiting = asyncio.create_task(each_world.outsider.get(f"/v1/tasks/{task_id}", headers=waits))
    polling = asyncio.create_task(each_world.outsider.get("/v1/events?after=now", headers=waits))
    async with asyncio.timeout(55):
        await until(lambda: _are_listening(feed))
        await revoke(each_world, key, queued="finish")
        ended = [await stream, await waiting, await polling]

    assert "event: reconnect" in ended[0].text
    assert [answer.status_code for answer in ended[1:]] == [401, 401]


async def _are_listening(feed: Feed) -> bool:
    return feed.listeners == 3


@pytest.mark.parametrize(("links", "status"), [("keep", 200), ("end", 410)])
async def test_links_that_were_made_for_a_revoked_key_go_on_or_end(world: World, links: str, status: int) -> None:
    made = await application(world)
    key, other = [await key_of(world, made["id"]) for _ in range(2)]
    task_id = await post_task(world, other)
    await world.work()
    await world.go_on(12)
    found = [
        (await world.outsider.get(f"/v1/get_result?id={task_id}", headers=headers(of))).json()["result"]["sample"]
        for of in (key, other)
    ]
    await revoke(world, key, links=links)

    assert [(await world.outsider.get(link)).status_code for link in found] == [status, 200]
    assert (await world.outsider.get(found[0].replace(key["id"], other["id"]))).status_code == 404


async def test_many_different_wrong_keys_of_one_address_are_answered_late_and_valid_ones_at_once(world: World) -> None:
    loop = asyncio.get_running_loop()
    for number in range(20):
        assert (await world.outsider.get("/v1/tasks", headers={"x-key": f"guess {number}"})).status_code == 401
    again = loop.time()
    await world.outsider.get("/v1/tasks", headers={"x-key": "guess 1"})
    known = loop.time() - again
    began = loop.time()
    guesses = [world.outsider.get("/v1/tasks", headers={"x-key": f"more {number}"}) for number in range(9)]
    answers = await asyncio.gather(*guesses, world.api.get("/v1/tasks"))

    assert known < 1
    assert loop.time() - began >= 1
    assert sorted(answer.status_code for answer in answers) == [200, *[401] * 8, 429]
