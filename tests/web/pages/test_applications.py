"""The pages of applications and accounts: what they show to whom, and their forms."""

import asyncio
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.applications import application
from tests.browsing import HTML, Page, look, signed_in
from tests.calling import everything
from tests.web.pages.test_task_page import act, seen
from tests.world import World, open_world

SHOP = "the key of shop, for tests only"


async def test_an_application_and_its_key_are_created_and_the_key_is_shown_once(each_world: World) -> None:
    world = each_world
    page = await signed_in(world, "/applications/new")
    values = {"name": HTML, "credits": "40", "period": "month", "in_flight": "3", "queued": "", "posts_per_minute": ""}
    made = await act(world, page, "/applications", once=page.once, **values)
    here = made.partition("?")[0]
    form = await look(world, f"{here}/keys/new")
    fields = {
        "token": form.token,
        "once": form.once,
        "name": "server",
        "scope_submit": "on",
        "scope_read": "on",
        "expires": "2999-01-01",
    }
    answer = await world.outsider.post(f"{here}/keys", data=fields)
    (secret,) = re.findall(r"fh_[\w-]{20,}", answer.text)
    shown = await look(world, here)

    assert await opens(world, secret) == 200
    assert (answer.status_code, answer.headers["cache-control"]) == (201, "no-store")
    assert secret not in shown.text
    assert "submit, read active never 01 Jan 2999" in seen(shown.text)
    assert "0 of 40" in seen(shown.text)
    assert "Tasks in flight 0 of 3" in seen(shown.text)
    assert "<script>alert" not in shown.text + answer.text


async def test_the_form_of_a_key_makes_one_key_however_often_it_is_sent(each_world: World) -> None:
    world = each_world
    form = await signed_in(world, "/applications/app_admin/keys/new")
    fields = {"token": form.token, "once": form.once, "name": "server", "scope_read": "on"}
    post = partial(world.outsider.post, "/applications/app_admin/keys", data=fields)
    answers = [*await asyncio.gather(post(), post()), await post()]
    secrets = [re.findall(r"fh_[\w-]{20,}", answer.text) for answer in answers]
    ((secret,),) = [found for found in secrets if found]
    kept = await world.use.db.read(everything)

    assert sorted(answer.status_code for answer in answers) == [201, 409, 409]
    assert "this form was already sent" in answers[2].text.lower()
    assert await counted(world) == [1, 2]
    assert await opens(world, secret) == 200
    assert secret.encode() not in kept


@pytest.mark.parametrize("once", ["", "key_admin", f"key_{'0' * 37}", f"key_{'0' * 37}.x", "of another session"])
async def test_the_id_of_a_key_cannot_be_chosen(world: World, once: str) -> None:
    other = await signed_in(world, "/applications/app_admin/keys/new")
    form = await signed_in(world, "/applications/app_admin/keys/new")
    chosen = other.once if once == "of another session" else once
    fields = {"token": form.token, "once": chosen, "name": "server", "scope_read": "on"}
    answer = await world.outsider.post("/applications/app_admin/keys", data=fields)

    assert answer.status_code == 403
    assert await counted(world) == [1, 1]


@pytest.mark.parametrize(
    ("path", "fields", "reason"),
    [
        ("/applications", {"name": ""}, "Name"),
        ("/applications", {"name": "a", "credits": "many"}, "Credits"),
        ("/applications", {"name": "a", "in_flight": "-1"}, "Tasks in flight"),
        ("/applications", {"name": "a", "queued": "1", "unlimited_queued": "on"}, "Queued tasks has a number and"),
        ("/applications", {"name": "a", "priority": "10"}, "Highest priority"),
        ("/applications/app_admin/keys", {"name": "a"}, "Scopes: choose at least one"),
        ("/applications/app_admin/keys", {"name": "a", "scope_read": "on", "expires": "2001-01-01"}, "Expires is in"),
        ("/applications/app_admin/keys", {"name": "a", "scope_read": "on", "webhook_url": "x"}, "Webhook URL"),
    ],
    ids=["no name", "no number", "negative", "both", "too high", "no scope", "past", "no url"],
)
async def test_a_form_with_a_wrong_value_comes_back_and_creates_nothing(
    world: World, path: str, fields: dict[str, str], reason: str
) -> None:
    here = "/applications/app_admin/keys/new" if path.endswith("keys") else "/applications/new"
    page = await signed_in(world, here)
    before = await counted(world)
    answer = await world.outsider.post(path, data={"token": page.token, "once": page.once, **fields})

    assert answer.status_code == 422
    assert reason in seen(answer.text)
    assert await counted(world) == before


async def counted(world: World) -> list[int]:
    lists = [(await world.api.get(path)).json() for path in ("/v1/applications", "/v1/keys")]
    return [len(next(iter(found.values()))) for found in lists]


async def test_the_form_of_an_application_makes_one_however_often_it_is_sent(each_world: World) -> None:
    world = each_world
    form = await signed_in(world, "/applications/new")
    fields = {"token": form.token, "once": form.once, "name": "shop"}
    answers = await asyncio.gather(*(world.outsider.post("/applications", data=fields) for _ in range(2)))
    places = {answer.headers["location"].partition("?")[0] for answer in answers}

    assert [answer.status_code for answer in answers] == [303, 303]
    assert len(places) == 1
    assert await counted(world) == [2, 1]


async def made_with(world: World, **members: Any) -> str:
    """Create an application over the API and return the path of its page."""
    made = await world.api.post("/v1/applications", json={"name": "shop", **members})
    return f"/applications/{made.json()['id']}"


async def stored(world: World, here: str) -> dict[str, Any]:
    found: dict[str, Any] = (await world.api.get(f"/v1{here}")).json()
    return {name: found[name] for name in ("name", "budget", "limits")}


async def test_the_form_of_an_application_shows_it_as_it_is_and_changes_what_differs(each_world: World) -> None:
    world = each_world
    here = await made_with(world, budget={"credits": 12.5, "period": "month"}, limits={"queued": None, "priority": 3})
    form = await signed_in(world, f"{here}/change")
    values = form.values
    same = await act(world, form, f"{here}/change", **values)
    unchanged = await stored(world, here)
    values |= {"name": HTML, "credits": "40", "period": "day", "in_flight": "2", "queued": "7", "priority": ""}
    del values["unlimited_queued"]
    other = await act(world, form, f"{here}/change", **values)
    record = (await world.api.get("/v1/audit")).json()["records"][0]
    again = await look(world, f"{here}/change")
    shown = await look(world, other)

    assert (same, other) == (f"{here}?done=unchanged", f"{here}?done=changed")
    assert unchanged == {
        "name": "shop",
        "budget": {"credits": 12.5, "period": "month"},
        "limits": {"queued": None, "priority": 3},
    }
    assert await stored(world, here) == {
        "name": HTML,
        "budget": {"credits": 40.0, "period": "day"},
        "limits": {"in_flight": 2, "queued": 7},
    }
    assert (record["action"], record["subject"]) == ("application.changed", here.rpartition("/")[2])
    assert record["detail"] == {"changed": "budget limits name"}
    assert again.values == {**values, "version": again.values["version"]}
    assert "<script>alert" not in again.text + shown.text
    assert "The application is changed." in seen(shown.text)


async def test_budget_and_limits_are_removed_by_empty_fields(each_world: World) -> None:
    here = await made_with(each_world, budget={"credits": 1, "period": "day"}, limits={"queued": 5})
    form = await signed_in(each_world, f"{here}/change")
    await act(each_world, form, f"{here}/change", **{**form.values, "credits": "", "queued": ""})

    assert await stored(each_world, here) == {"name": "shop", "budget": None, "limits": None}


async def test_a_form_that_shows_an_earlier_state_changes_nothing(each_world: World) -> None:
    world = each_world
    here = await made_with(world, budget={"credits": 1, "period": "day"})
    form = await signed_in(world, f"{here}/change")
    await world.api.patch(f"/v1{here}", json={"budget": {"credits": 2, "period": "day"}})
    before = await stored(world, here)
    fields = {"token": form.token, **form.values, "name": "store"}
    answer = await world.outsider.post(f"{here}/change", data=fields)

    assert answer.status_code == 409
    assert "was changed by another request" in seen(answer.text)
    assert await stored(world, here) == before
    again = Page(answer.text)
    assert (again.values["credits"], again.values["name"]) == ("2", "shop")
    await act(world, again, f"{here}/change", **{**again.values, "name": "store"})
    assert await stored(world, here) == {**before, "name": "store"}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"name": ""}, "Name"),
        ({"credits": "-1"}, "Credits"),
        ({"credits": "1", "period": "year"}, "Period"),
        ({"streams": "1.5"}, "Event streams at once"),
        ({"uploads": "4", "unlimited_uploads": "on"}, "Large uploads at once has a number and"),
        ({"priority": "10"}, "Highest priority"),
    ],
    ids=str,
)
async def test_a_change_with_a_wrong_value_comes_back_with_what_was_typed(
    world: World, fields: dict[str, str], reason: str
) -> None:
    here = await made_with(world, budget={"credits": 1, "period": "day"})
    before = await stored(world, here)
    form = await signed_in(world, f"{here}/change")
    answer = await world.outsider.post(f"{here}/change", data={"token": form.token, **form.values, **fields})
    again = Page(answer.text)

    assert answer.status_code == 422
    assert "Nothing was changed." in seen(answer.text)
    assert reason in seen(answer.text)
    assert {name: again.values.get(name) for name in fields if name != "period"} == {
        name: value for name, value in fields.items() if name != "period"
    }
    assert await stored(world, here) == before


async def test_a_key_and_its_application_are_revoked_after_a_question_each(each_world: World) -> None:
    world = each_world
    made = (await world.api.post("/v1/applications", json={"name": "shop"})).json()
    here = f"/applications/{made['id']}"
    first, second = [(await world.api.post(f"/v1{here}/keys", json={"name": name})).json() for name in ("a", "b")]
    await signed_in(world, here)
    asked = await look(world, f"{here}/keys/{first['id']}/revoke")
    statuses = [await opens(world, first["key"])]
    await act(world, asked, f"{here}/keys/{first['id']}/revoke", finish="on")
    statuses += [await opens(world, first["key"]), await opens(world, second["key"])]
    question = await look(world, f"{here}/disable")
    await act(world, question, f"{here}/disable")
    statuses.append(await opens(world, second["key"]))
    disabled = seen((await look(world, here)).text)
    await act(world, await look(world, f"{here}/enable"), f"{here}/enable")
    statuses.append(await opens(world, second["key"]))

    assert "Revoke this key?" in seen(asked.text)
    assert "Disable this application?" in seen(question.text)
    assert statuses == [200, 401, 200, 401, 200]
    assert "shop disabled" in disabled
    foreign = await world.outsider.get(f"/applications/app_admin/keys/{second['id']}/revoke")
    assert foreign.status_code == 404


async def opens(world: World, key: str) -> int:
    """The status of a request with this key and without a session."""
    return (await world.api.get("/v1/limits", headers={"authorization": f"Bearer {key}"})).status_code


async def test_the_keys_of_an_application_are_shown_in_pages(each_world: World) -> None:
    world = each_world
    here = f"/applications/{(await world.api.post('/v1/applications', json={'name': 'shop'})).json()['id']}"
    for number in range(51):
        world.clock.advance(1)
        await world.api.post(f"/v1{here}/keys", json={"name": f"server {number}."})
    first = await signed_in(world, here)
    (older,) = re.findall(rf'href="{here}\?(before=key_\w+)"', first.text)
    second = await look(world, f"{here}?{older}")

    assert "server 50." in first.text
    assert "server 0." not in first.text
    assert "server 0." in second.text
    assert "server 50." not in second.text
    assert f'href="{here}">Newest' in second.text


async def test_an_application_sees_its_own_page_and_no_other(world: World) -> None:
    await application(world, "shop", budget=(6, "day"))
    await application(world, "other")
    page = await signed_in(world, "/applications", key=SHOP)
    own = await look(world, "/applications/app_shop")
    foreign = await world.outsider.get("/applications/app_other")
    listed = seen((await signed_in(world, "/applications")).text)

    assert "0 of 6" in seen(page.text)
    assert "New key" not in page.text
    assert "Accounts" not in page.text
    assert seen(own.text) == seen(page.text)
    assert foreign.status_code == 404
    assert "shop active 1 0 0 of 6 a day" in listed
    assert "other active 1 0 no limit" in listed


async def test_accounts_show_slots_pauses_balances_and_models(tmp_path: Path, sqlite_url: str) -> None:
    several: dict[str, dict[str, Any]] = {"main": {}, "spare": {"models": frozenset({"flux-2-pro"}), "region": "eu"}}
    async with open_world(tmp_path, sqlite_url, several=several) as world:
        await world.post()
        await world.work()
        text = seen((await signed_in(world, "/accounts")).text)

    assert "main active Slots in use 1 of 24" in text
    assert "Region eu Models flux-2-pro" in text
    assert text.count("credits") >= 2
