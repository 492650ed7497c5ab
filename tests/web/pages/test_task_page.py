"""The why page: what it shows of a task in each state, its evidence, and its buttons."""

import re

import pytest

from app.web.pages.drawing import SCALE
from tests.browsing import HTML, Page, look, signed_in
from tests.calling import done, submitted
from tests.receivers import URL, ended, receiver, stored_with_webhook
from tests.test_notify import exhaust
from tests.web.routes.test_deliveries import key_for
from tests.world import World


async def act(world: World, page: Page, path: str, **fields: str) -> str:
    """Send the form of a page, and return the page that it leads to."""
    answer = await world.outsider.post(path, data={"token": page.token, **fields})
    assert answer.status_code == 303, answer.text
    return answer.headers["location"]


def seen(text: str) -> str:
    """The words of a page, without tags and line breaks."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text))


async def test_a_stored_task_shows_what_was_asked_what_came_and_how(each_world: World) -> None:
    world = each_world
    receiver(world)
    task_id = await world.post(prompt=HTML, webhook_url=URL)
    await world.go_on(8)

    page = await signed_in(world, f"/tasks/{task_id}")
    words = seen(page.text)

    assert f'src="/v1/tasks/{task_id}/image"' in page.text
    assert "Nothing: the task has ended." in words
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page.text
    assert "<img src=x" not in page.text
    for title in ("Attempt 1 sent to bfl", "Callback", "Download", "Webhook: stored"):
        assert title in words
    assert "4 credits" in words
    assert re.search(r"Received [\d.]+ m?s after attempt 1 was sent\.", words)
    assert all(
        float(start) + float(width) <= SCALE
        for start, width in re.findall(r'x="([\d.]+)" y="0" width="([\d.]+)"', page.text)
    )


async def test_the_page_says_what_happens_next_and_when(world: World) -> None:
    for _ in range(25):
        await world.post()
    waiting = await world.post(prompt="one too many")
    await world.work()
    (sent,) = [task["id"] for task in (await world.api.get("/v1/tasks?status=submitted&limit=1")).json()["tasks"]]
    await signed_in(world)

    assert re.search(r"waits for a free slot: position [12]", seen((await look(world, f"/tasks/{waiting}")).text))
    assert re.search(
        r"Its callback ends the wait; without one, the provider is polled in [\d.]+ s, at 01 Jan",
        seen((await look(world, f"/tasks/{sent}")).text),
    )


async def test_webhooks_that_are_still_to_be_sent_are_named_in_order_with_their_attempt(world: World) -> None:
    receiver(world, 500)
    task_id = await world.post(webhook_url=URL, webhook_events=["submitted", "stored"])
    await world.go_on(6)
    words = next_of(await signed_in(world, f"/tasks/{task_id}"))

    assert words.index("The webhook “submitted” is sent again (attempt ") < words.index("The webhook “stored” is sent")
    assert "Nothing: the task has ended." not in words


async def test_webhooks_of_a_paused_endpoint_are_not_announced_as_sent(world: World) -> None:
    receiver(world, 500)
    await ended(world)
    await exhaust(world)
    task_id = await stored_with_webhook(world)
    words = next_of(await signed_in(world, f"/tasks/{task_id}"))

    assert "The webhook “stored” is not sent, because its endpoint is paused: resume it under Deliveries." in words


async def test_the_retention_of_an_ended_task_is_shown(world: World) -> None:
    await world.api.patch("/v1/applications/app_admin", json={"retention_days": {"images": 30, "tasks": 365}})
    task_id = await world.post()
    await world.go_on(6)
    page = await signed_in(world, f"/tasks/{task_id}")
    live = await world.outsider.get(f"/tasks/{task_id}/live")  # ends, although something will happen in a year

    assert re.search(
        r"Nothing: the task has ended\. The image is removed in (30 d|29 d 23 h), at 31 Jan .*"
        r"The whole task is removed in (365 d|364 d 23 h), at 01 Jan",
        next_of(page),
    )
    assert live.text.rstrip().endswith("data: final")


def next_of(page: Page) -> str:
    """The words of the part that says what happens next."""
    return seen(page.text.partition('id="next"')[2].partition("</section>")[0])


async def test_a_forged_callback_shows_the_check_that_failed_and_the_likely_cause(each_world: World) -> None:
    world = each_world
    caller = await submitted(world)
    await caller.call(caller.ready(), proof={"x-bfl-signature": f"sha256={'0' * 64}", "via": "1.1 proxy"})
    page = await signed_in(world, f"/tasks/{caller.task_id}")
    (link,) = re.findall(
        rf'/tasks/{caller.task_id}/evidence/ev_\w+(?=">Raw evidence<span class="unseen"> of Callback)', page.text
    )

    words = seen((await look(world, link)).text)

    assert "is not the HMAC-SHA256 of this body" in words
    assert "either the body was changed on the way, or it was signed with another secret" in words
    assert "a proxy (via)" in words
    assert caller.proof.secret not in words


async def test_the_provider_is_asked_at_once_and_not_more_often_than_usual(world: World) -> None:
    caller = await submitted(world)
    why = await signed_in(world, f"/tasks/{caller.task_id}")
    page = await look(world, f"/tasks/{caller.task_id}/confirm/ask")
    polls = []
    for _ in range(3):
        await act(world, page, f"/tasks/{caller.task_id}/ask")
        await world.work()
        polls.append(
            len([entry for entry in await world.timeline(caller.task_id, "evidence") if entry["witness"] == "poll"])
        )

    assert f'href="/tasks/{caller.task_id}/confirm/ask"' in why.text
    assert "Ask the provider now?" in seen(page.text)
    assert polls == [1, 1, 1]
    await done(world)
    await caller.call(caller.ready())
    await world.work()
    assert (await world.outsider.get(f"/tasks/{caller.task_id}/confirm/ask")).status_code == 409


@pytest.mark.parametrize(
    ("action", "state", "then"),
    [("cancel", "queued", "cancelled"), ("resubmit", "failed", "queued"), ("erase", "cancelled", None)],
)
async def test_a_button_asks_once_and_then_acts(world: World, action: str, state: str, then: str | None) -> None:
    task_id = await world.post(prompt="unsafe result" if state == "failed" else "a fox")
    if state == "failed":
        await world.go_on(6)
    if state == "cancelled":
        await world.api.post(f"/v1/tasks/{task_id}/cancel")
    await signed_in(world, f"/tasks/{task_id}")

    asked = await look(world, f"/tasks/{task_id}/confirm/{action}")
    before = (await world.task(task_id))["status"]
    await act(world, asked, f"/tasks/{task_id}/{action}")
    after = await world.api.get(f"/v1/tasks/{task_id}")

    assert before == state
    assert after.json().get("status") == (then or 404)
    assert (await world.outsider.get(f"/tasks/{task_id}/confirm/{action}")).status_code in {404, 409}


async def test_a_webhook_is_replayed_from_the_page(world: World) -> None:
    heard = receiver(world)
    task_id = await world.post(webhook_url=URL)
    await world.go_on(8)
    page = await signed_in(world, f"/tasks/{task_id}")
    (link,) = set(re.findall(r"/tasks/\w+/confirm/replay[?]delivery=dlv_\w+", page.text))
    before = len(heard.requests)

    asked = await look(world, link)
    await act(world, asked, f"/tasks/{task_id}/replay", delivery=link.partition("delivery=")[2])
    await world.work()

    assert len(heard.requests) == before + 1


async def test_the_pages_of_another_applications_task_do_not_exist(world: World) -> None:
    task_id = await world.post()
    await world.go_on(6)
    await key_for(world, "shop")
    await signed_in(world, key="shop's key")

    paths = ["", "/thumbnail", "/live", "/confirm/erase"]
    answers = [(await world.outsider.get(f"/tasks/{task_id}{path}")).status_code for path in paths]

    assert answers == [404] * 4
    assert "No task yet" in (await look(world, "/tasks")).text


async def test_the_live_part_ends_with_the_task(world: World) -> None:
    task_id = await world.post()
    await world.go_on(6)
    await signed_in(world)

    answer = await world.outsider.get(f"/tasks/{task_id}/live")

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert "event: html" in answer.text
    assert answer.text.rstrip().endswith("data: final")
