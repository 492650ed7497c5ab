"""The pages of callbacks, deliveries, audit and settings."""

import re
from contextlib import nullcontext

import httpx
import pytest

from app.main import create_app
from app.web.findings import Finding
from tests.browsing import look, signed_in
from tests.calling import submitted
from tests.receivers import URL, receiver
from tests.web.pages.test_task_page import act, seen
from tests.web.routes.test_deliveries import key_for
from tests.world import ADMIN_KEY, World


async def test_callbacks_are_listed_with_verdict_and_effect_rejected_ones_too(each_world: World) -> None:
    world = each_world
    caller = await submitted(world)
    await caller.call(caller.ready(), proof={"x-bfl-signature": "sha256=" + "0" * 64})
    await caller.call(caller.ready())
    page = await signed_in(world, "/callbacks")
    forged = await look(world, "/callbacks?verdict=forged")

    assert [verdict in seen(page.text) for verdict in ("signed moved", "forged rejected")] == [True, True]
    assert forged.text.count("/evidence/") == 1
    for link in re.findall(r'href="(/tasks/[^"]+/evidence/[^"]+)"', page.text):
        await look(world, link)


async def test_a_failed_webhook_shows_its_attempts_and_is_replayed(each_world: World) -> None:
    world = each_world
    heard = receiver(world, 500)
    await world.post(webhook_url=URL)
    await world.go_on(8)
    page = await signed_in(world, "/deliveries")
    (link,) = set(re.findall(r'href="(/deliveries/dlv_\w+)"', page.text))
    delivery = await look(world, link)
    before = len(heard.requests)
    (resume,) = set(re.findall(r'href="(/endpoints/ep_\w+/resume)"', page.text))
    question = await look(world, resume)

    await act(world, delivery, f"{link}/replay")
    await world.work()
    await act(world, question, resume)

    assert "1 failed attempt" in seen(page.text)
    assert "Resume this endpoint?" in seen(question.text)
    assert " 500 " in seen(delivery.text)
    assert len(heard.requests) == before + 1


async def test_a_test_is_sent_and_a_paused_endpoint_resumed(world: World) -> None:
    heard = receiver(world)
    page = await signed_in(world, "/deliveries")

    asked = await world.outsider.post("/deliveries/test", data={"token": page.token, "url": URL})
    await world.work()
    sent_before = len(heard.requests)
    location = await act(world, page, "/deliveries/test", url=URL, sure="yes")
    await world.work()

    assert "delivered" in seen((await look(world, location)).text)
    assert "Send a test?" in seen(asked.text)
    assert (sent_before, len(heard.requests)) == (0, 1)
    refused = await world.outsider.post("/deliveries/test", data={"token": page.token, "url": "no address"})
    assert refused.status_code == 422


async def test_settings_and_audit_are_shown_to_an_admin_only(world: World) -> None:
    task_id = await world.post()
    await world.api.post(f"/v1/tasks/{task_id}/cancel")
    settings = seen((await signed_in(world, "/settings")).text)
    audit = seen((await look(world, "/audit")).text)
    await key_for(world, "shop")
    await signed_in(world, key="shop's key")
    refused = [(await world.outsider.get(path)).status_code for path in ("/settings", "/audit", "/accounts")]

    assert "Database ok" in settings
    assert "Run all checks" not in settings  # this service was given none
    assert "http://gateway" in settings
    assert task_id in audit
    assert refused == [403, 403, 403]


@pytest.mark.parametrize("path", ["/callbacks", "/deliveries"])
async def test_an_application_sees_nothing_of_others(world: World, path: str) -> None:
    caller = await submitted(world)
    await caller.call(caller.ready())
    await key_for(world, "shop")

    assert caller.task_id not in (await signed_in(world, path, key="shop's key")).text


async def test_what_doctor_finds_is_shown_on_request(world: World) -> None:
    asked = 0

    async def examine() -> list[Finding]:
        nonlocal asked
        asked += 1
        return [
            Finding("public URL", "leads to <b>another</b> server", unhealthy=True),
            Finding("store", "is writable"),
        ]

    app = create_app(nullcontext(world.use), world.use.catalog, with_worker=False, examine=examine)
    transport, headers = httpx.ASGITransport(app), {"x-key": ADMIN_KEY}
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=headers) as client,
    ):
        plain = await client.get("/settings")
        pages = [await client.get("/settings?checks=all") for _ in range(2)]

    assert "Run all checks" in seen(plain.text)
    assert "Public URL leads to &lt;b&gt;another&lt;/b&gt; server" in seen(pages[1].text)
    assert asked == 1
