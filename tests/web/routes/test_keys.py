"""API keys over HTTP, and their default webhooks."""

from functools import partial
from typing import Any

import pytest

from app.db.tables import api_keys, tasks
from app.db.tables.api_keys import NewApiKey
from app.webhooks import subscription
from tests.calling import everything
from tests.receivers import SECRET, URL
from tests.world import World


async def make(world: World, **given: Any) -> dict[str, Any]:
    answer = await world.api.post("/v1/keys", json={"name": "shop", **given})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def bearer(made: dict[str, Any]) -> dict[str, str]:
    return {"authorization": f"Bearer {made['key']}"}


async def test_a_key_is_shown_once_and_works(each_world: World) -> None:
    made = await make(each_world)
    listed = (await each_world.api.get("/v1/keys")).json()["keys"]
    kept = await each_world.use.db.read(everything)

    assert (await each_world.outsider.get("/v1/tasks", headers=bearer(made))).status_code == 200
    assert {each["name"] for each in listed} == {"shop", "admin"}
    assert all("key" not in each for each in listed)
    assert made["key"].encode() not in kept


async def pages_of(world: World, path: str, rows: str, limit: int = 2) -> list[list[str]]:
    """Return the ids in a list's pages."""
    pages, cursor = [], ""
    while True:
        page = (await world.api.get(f"{path}?limit={limit}{cursor}")).json()
        pages.append([row["id"] for row in page[rows]])
        if page["next_cursor"] is None:
            return pages
        cursor = f"&cursor={page['next_cursor']}"


async def test_keys_are_listed_in_pages(each_world: World) -> None:
    made = []
    for number in range(5):
        each_world.clock.advance(1)
        made.append((await make(each_world, name=f"key {number}"))["id"])
    pages = await pages_of(each_world, "/v1/keys", "keys")
    whole = (await each_world.api.get("/v1/keys")).json()

    assert [len(page) for page in pages] == [2, 2, 2]
    assert [key_id for page in pages for key_id in page] == ["key_admin", *reversed(made)]
    assert [key["id"] for key in whole["keys"]] == ["key_admin", *reversed(made)]
    assert whole["next_cursor"] is None


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "cursor=task_1", "cursor=key_admin%0a", "page=2"])
@pytest.mark.parametrize("path", ["/v1/keys", "/v1/applications"])
async def test_a_page_with_wrong_bounds_is_refused(world: World, path: str, query: str) -> None:
    assert (await world.api.get(f"{path}?{query}")).status_code == 422


async def test_a_disabled_key_is_refused_and_stays_in_the_list(each_world: World) -> None:
    made = await make(each_world)
    answer = await each_world.api.delete(f"/v1/keys/{made['id']}")

    assert answer.json()["disabled_at"] is not None
    assert (await each_world.outsider.get("/v1/tasks", headers=bearer(made))).status_code == 401
    assert len((await each_world.api.get("/v1/keys")).json()["keys"]) == 2


async def test_disabling_a_key_again_keeps_the_first_time(each_world: World) -> None:
    path = f"/v1/keys/{(await make(each_world))['id']}"
    first = await each_world.api.delete(path)
    each_world.clock.advance(60)
    again = await each_world.api.delete(path)

    assert (again.status_code, again.json()) == (200, first.json())


async def test_the_operator_s_own_key_cannot_be_disabled(world: World) -> None:
    assert (await world.api.delete("/v1/keys/key_admin")).status_code == 409


@pytest.mark.parametrize(("method", "path"), [("POST", ""), ("DELETE", "/key_admin")])
async def test_a_key_without_the_scope_may_not_make_or_revoke_keys(world: World, method: str, path: str) -> None:
    made = await make(world)
    answer = await world.outsider.request(method, f"/v1/keys{path}", headers=bearer(made), json={"name": "x"})

    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


async def test_a_key_sees_and_changes_the_keys_of_its_application_alone(world: World) -> None:
    made = await make(world)
    listed = await world.outsider.get("/v1/keys", headers=bearer(made))
    own, foreign = [
        await world.outsider.patch(f"/v1/keys/{key_id}", headers=bearer(made), json={"name": "x"})
        for key_id in (made["id"], "key_admin")
    ]

    assert [key["id"] for key in listed.json()["keys"]] == [made["id"]]
    assert (own.status_code, foreign.status_code) == (200, 404)


async def test_a_key_with_the_scope_may_manage_keys(world: World) -> None:
    made = await make(world, scopes=["*"])

    assert (await world.outsider.get("/v1/keys", headers=bearer(made))).status_code == 200


@pytest.mark.parametrize(
    "given",
    [
        {"name": ""},
        {"name": "a\0b"},
        {"scopes": ["root"]},
        {"scopes": []},
        {"webhook_url": "http://a/"},
        {"webhook_secret": " "},
        {"x": 1},
    ],
    ids=["no name", "nul", "scope", "no scope", "plain http", "blank secret", "unknown"],
)
async def test_a_key_that_breaks_a_rule_is_not_made(world: World, given: dict[str, Any]) -> None:
    answer = await world.api.post("/v1/keys", json={"name": "shop", **given})

    assert answer.status_code == 422


async def test_the_webhook_of_a_key_is_the_default_of_its_tasks(each_world: World) -> None:
    told = {"webhook_url": URL, "webhook_secret": SECRET, "webhook_form": "event", "webhook_events": ["submitted"]}
    made = await make(each_world, **told)
    own = {"prompt": "a fox", "webhook_url": f"{URL}/own", "webhook_form": "provider"}
    found = []
    for body in ({"prompt": "a fox"}, own):
        answer = await each_world.outsider.post("/v1/tasks", json=body, headers=bearer(made))
        assert answer.status_code == 202, answer.text
        task_id = answer.json()["id"]
        task = await each_world.use.db.read(partial(tasks.get, task_id=task_id))
        assert task is not None
        secret = subscription.unseal(each_world.use.keys, task.id, task.webhook_secret or "")
        found.append((task.webhook_url, task.webhook_form, task.webhook_events, secret))

    assert made["webhook"] == {"url": URL, "form": "event", "events": ["submitted"]}
    assert found == [(URL, "event", ["submitted"], SECRET), (f"{URL}/own", "provider", ["submitted"], SECRET)]


async def test_only_the_given_fields_of_a_key_change(each_world: World) -> None:
    made = await make(each_world, webhook_url=URL, webhook_secret=SECRET)
    path = f"/v1/keys/{made['id']}"
    renamed = (await each_world.api.patch(path, json={"name": "store"})).json()
    silent = (await each_world.api.patch(path, json={"webhook_url": None})).json()
    row = await each_world.use.db.read(lambda connection: api_keys.get(connection, made["id"]))

    assert (renamed["name"], renamed["webhook"]["url"]) == ("store", URL)
    assert (silent["name"], silent["webhook"]) == ("store", None)
    assert row is not None
    assert subscription.unseal(each_world.use.keys, made["id"], row.webhook_secret or "") == SECRET


async def test_the_webhook_of_a_key_survives_a_restart(each_world: World) -> None:
    await each_world.api.patch("/v1/keys/key_admin", json={"webhook_url": URL})
    admin = NewApiKey("key_admin", "admin", "0" * 64, ["*"], each_world.clock.at)
    await each_world.use.db.write(lambda connection: api_keys.put(connection, admin))
    kept = await each_world.use.db.read(lambda connection: api_keys.get(connection, "key_admin"))

    assert kept is not None
    assert kept.webhook_url == URL


@pytest.mark.parametrize("key_id", ["key_none", "key_" + "0" * 37, "%00"])
async def test_an_unknown_key_is_not_found(world: World, key_id: str) -> None:
    assert (await world.api.patch(f"/v1/keys/{key_id}", json={"name": "x"})).status_code == 404
    assert (await world.api.delete(f"/v1/keys/{key_id}")).status_code == 404
