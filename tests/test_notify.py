"""Webhooks: what is delivered, when deliveries are retried, and what stops an endpoint."""

from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response

from app import jobs
from app.db import Connection
from app.db.tables import deliveries
from app.images.signed_links import check
from app.jobs import NewJob, Step
from app.rules.backoff import WEBHOOK_WAITS
from app.rules.weighted_semaphore import WeightedSemaphore
from app.security.keyring import KeyRing
from app.worker import loop
from app.worker.loop import LANES
from tests.calling import small
from tests.receivers import HOST, SECRET, URL, ended, endpoint, only_delivery, receiver, stored_with_webhook, until_due
from tests.receivers import deliveries as listed
from tests.rows import WORKER
from tests.world import RING_KEY, World, open_world


async def exhaust(world: World) -> dict[str, Any]:
    """Work until the only delivery has ended."""
    for _ in range(60):
        found = await only_delivery(world)
        if found["due_at"] is None:
            return found
        await until_due(world, found)
        world.clock.advance(1)
        await world.work()
    raise AssertionError(found)


async def test_a_task_that_ends_sends_one_webhook_and_the_timeline_shows_it(each_world: World) -> None:
    heard = receiver(each_world)
    task_id = await stored_with_webhook(each_world)
    delivery = await only_delivery(each_world)
    (entry,) = await each_world.timeline(task_id, "delivery")

    assert len(heard.requests) == 1
    assert (delivery["state"], delivery["about"], delivery["task_id"], delivery["tries"]) == (
        "delivered",
        "stored",
        task_id,
        1,
    )
    assert [attempt["http_status"] for attempt in delivery["attempts"]] == [200]
    assert (entry["state"], entry["about"], entry["attempts"]) == ("delivered", "stored", 1)
    assert entry["endpoint_state"] == "active"
    assert heard.ids == [delivery["id"]] == [entry["delivery_id"]]


async def test_the_link_in_a_webhook_works_for_the_configured_time(world: World) -> None:
    heard = receiver(world)
    task_id = await stored_with_webhook(world)
    link = (await only_delivery(world))["payload"]["result"]["sample"]
    sent = heard.bodies[0].decode()
    query = dict(part.split("=") for part in sent.partition("?")[2].partition('"')[0].split("&"))

    assert link is None  # the payload is stored without a link, which would expire
    assert f"http://gateway/results/{task_id}.png?expires=" in sent
    assert check(world.use.keys, task_id, query["expires"], query["signature"], world.clock.at)
    assert abs(int(query["expires"]) - (world.clock.at + timedelta(days=7)).timestamp()) < 10


@pytest.mark.parametrize(
    ("host", "expected"), [("127.0.0.1:81", "http://127.0.0.1:81"), ("other.example:81", "http://gateway")]
)
async def test_without_a_public_url_a_link_is_on_the_host_that_was_posted_to_if_it_is_private(
    tmp_path: Path, sqlite_url: str, host: str, expected: str
) -> None:
    async with open_world(tmp_path, sqlite_url, public_url=None) as world:
        heard = receiver(world)
        small(world)
        task = {"prompt": "a fox", "webhook_url": URL}
        task_id = (await world.api.post("/v1/tasks", json=task, headers={"host": host})).json()["id"]
        await world.go_on(30)

    assert f'"{expected}/results/{task_id}.png?' in heard.bodies[0].decode()


async def test_a_task_without_a_webhook_url_sends_nothing(world: World) -> None:
    small(world)
    await world.post()
    await world.go_on(6)

    assert await listed(world) == []


async def test_only_listed_events_are_sent_before_the_end(world: World) -> None:
    heard = receiver(world)
    await stored_with_webhook(world, webhook_events=["submitted"], webhook_form="event")
    await stored_with_webhook(world, webhook_form="event")

    kinds = [body.decode().partition('"type":"')[2].partition('"')[0] for body in heard.bodies]
    assert kinds == ["task.submitted", "task.stored", "task.stored"]


async def test_a_cancelled_and_a_failed_task_send_webhooks(world: World) -> None:
    receiver(world)
    small(world)
    task_id = await world.post(webhook_url=URL)
    await world.api.post(f"/v1/tasks/{task_id}/cancel")
    await world.post(prompt="an unsafe result", webhook_url=URL)
    await world.go_on(6)

    found = [(each["about"], each["state"]) for each in await listed(world)]
    assert found == [("failed", "delivered"), ("cancelled", "delivered")]


async def test_every_2xx_is_success(world: World) -> None:
    statuses = (200, 201, 202, 204, 299)
    receiver(world, *statuses)
    for _ in statuses:
        await ended(world)

    assert [each["state"] for each in await listed(world)] == ["delivered"] * 5


async def test_every_other_status_is_retried(world: World) -> None:
    statuses = (300, 301, 302, 304, 307, 308, 400, 401, 404, 418, 429, 500, 503, 599)
    away = {"location": "http://169.254.169.254/"}
    receiver(world, *(Response(status_code=status, headers=away) for status in statuses))
    for status in statuses:
        await ended(world, webhook_url=f"{URL}/{status}")

    assert [(each["state"], each["detail"]) for each in reversed(await listed(world))] == [
        ("waiting", f"answered with HTTP {status}") for status in statuses
    ]


async def test_a_failed_attempt_is_recorded_and_retried_with_the_same_id(each_world: World) -> None:
    heard = receiver(each_world, Response("mind the gap", 500), 200)
    await ended(each_world)
    await until_due(each_world, await only_delivery(each_world))
    delivery = await only_delivery(each_world)

    assert delivery["state"] == "delivered"
    assert [(each["http_status"], each["answer"]) for each in delivery["attempts"]] == [
        (500, "mind the gap"),
        (200, ""),
    ]
    assert heard.ids == [delivery["id"]] * 2


async def test_a_delivery_is_tried_for_three_days_and_then_its_endpoint_is_paused(each_world: World) -> None:
    heard = receiver(each_world, 500)
    await ended(each_world)
    found = await exhaust(each_world)
    begun = [datetime.fromisoformat(each["at"]) for each in found["attempts"]]
    waits = [later - earlier for earlier, later in pairwise(begun)]

    assert found["state"] == "failed"
    assert len(heard.requests) == len(WEBHOOK_WAITS) + 1
    assert all(
        wait <= waited <= wait * 1.1 + timedelta(minutes=6) for wait, waited in zip(WEBHOOK_WAITS, waits, strict=True)
    )
    assert timedelta(days=2.9) < begun[-1] - begun[0] < timedelta(days=3.5)
    assert (await endpoint(each_world))["state"] == "paused"
    assert await each_world.use.db.read(jobs.dead_letters) == []


async def test_deliveries_to_a_paused_endpoint_wait_until_it_is_resumed(world: World) -> None:
    heard = receiver(world, 500)
    await ended(world)
    await exhaust(world)
    heard.answers = [Response()]
    await ended(world)
    await world.go_on(7200, 600)
    waiting = await listed(world, state="waiting")
    paused = await endpoint(world, state="paused")
    resumed = await world.api.post(f"/v1/endpoints/{paused['id']}/resume")
    await world.work()

    assert len(waiting) == 1
    assert resumed.json()["state"] == "active"
    assert [each["state"] for each in await listed(world)] == ["delivered", "failed"]


async def test_a_delivered_test_resumes_a_paused_endpoint(each_world: World) -> None:
    heard = receiver(each_world, 500)
    await ended(each_world)
    await exhaust(each_world)
    await ended(each_world)
    failed = (await each_world.api.post("/v1/endpoints/test", json={"webhook_url": URL})).json()
    await each_world.work()
    still = (await endpoint(each_world))["state"]
    heard.answers = [Response()]
    passed = (await each_world.api.post("/v1/endpoints/test", json={"webhook_url": URL})).json()
    await each_world.work()
    states = {each["id"]: each["state"] for each in await listed(each_world)}

    assert (failed["about"], failed["task_id"], still) == ("test", None, "paused")
    assert (states[failed["id"]], states[passed["id"]]) == ("failed", "delivered")
    assert (await endpoint(each_world))["state"] == "active"
    assert list(states.values()).count("waiting") == 0


async def test_a_failed_test_does_not_count_towards_the_pause_of_an_endpoint(each_world: World) -> None:
    heard = receiver(each_world, 503)
    await each_world.api.post("/v1/endpoints/test", json={"webhook_url": URL})
    await each_world.work()
    tested = await endpoint(each_world)
    each_world.clock.advance(4 * 86_400)
    await ended(each_world)
    failing = await endpoint(each_world)
    heard.answers = [Response()]
    await each_world.go_on(60, 10)

    assert (tested["failures"], tested["failing_since_at"], tested["rests_until_at"]) == (0, None, None)
    assert (failing["state"], failing["failures"]) == ("active", 1)
    assert [each["state"] for each in await listed(each_world)] == ["delivered", "failed"]


async def test_a_receiver_that_answers_410_gets_nothing_more(each_world: World) -> None:
    heard = receiver(each_world, 410)
    await ended(each_world)
    task_id = await ended(each_world)
    await each_world.go_on(86_400, 7200)

    (entry,) = await each_world.timeline(task_id, "delivery")

    assert len(heard.requests) == 1
    assert (await endpoint(each_world))["state"] == entry["endpoint_state"] == "gone"
    assert [each["state"] for each in await listed(each_world)] == ["failed", "failed"]


async def test_retry_after_is_honoured_within_bounds(world: World) -> None:
    wishes = {
        "3600": timedelta(hours=1),
        "Thu, 01 Jan 2026 14:00:00 GMT": timedelta(hours=1, minutes=59),
        "999999999": timedelta(hours=24),
        "1": timedelta(seconds=5),
        "soon": timedelta(seconds=5),
    }
    receiver(world, *(Response(status_code=429, headers={"retry-after": wish}) for wish in wishes))
    for number, least in enumerate(wishes.values()):
        task_id = await ended(world, webhook_url=f"{URL}/{number}")
        delivery = await only_delivery(world, task_id=task_id)
        wait = datetime.fromisoformat(delivery["due_at"]) - datetime.fromisoformat(delivery["attempts"][0]["at"])
        assert least <= wait <= least * 1.1 + timedelta(minutes=2)


async def test_a_failing_endpoint_backs_off_and_uses_up_no_try_of_its_other_deliveries(world: World) -> None:
    heard = receiver(world, 500)
    await ended(world)
    for _ in range(3):
        await ended(world)
    found = await listed(world)
    resting = await endpoint(world)

    assert datetime.fromisoformat(resting["rests_until_at"]) > world.clock.at - timedelta(minutes=6)
    assert sum(each["tries"] for each in found) == len(heard.requests)
    heard.answers = [Response()]
    await world.go_on(3600, 60)
    assert {each["state"] for each in await listed(world)} == {"delivered"}


async def test_many_deliveries_to_one_endpoint_all_arrive_once(each_world: World) -> None:
    heard = receiver(each_world)
    small(each_world)
    for _ in range(11):
        task_id = await each_world.post(webhook_url=URL)
        await each_world.api.post(f"/v1/tasks/{task_id}/cancel")
    await each_world.work()

    assert len(heard.ids) == len(set(heard.ids)) == 11


async def test_a_host_with_many_dead_endpoints_is_postponed_without_using_up_a_try(world: World) -> None:
    receiver(world)
    world.use.delivering["app_admin", HOST] = 8
    await ended(world)
    spool = await only_delivery(world)
    world.use.delivering["app_admin", HOST] = 0
    world.clock.advance(11)
    await world.work()

    assert (spool["state"], spool["tries"]) == ("waiting", 0)
    assert (await only_delivery(world))["state"] == "delivered"


async def test_endpoints_of_another_application_at_the_same_host_delay_no_delivery(world: World) -> None:
    receiver(world)
    world.use.delivering["app_other", HOST] = 8
    await ended(world)

    assert (await only_delivery(world))["state"] == "delivered"


async def test_a_host_without_capacity_is_checked_less_and_less_often(world: World) -> None:
    receiver(world)
    world.use.delivering["app_admin", HOST] = 8
    await ended(world)
    looks = 0
    for _ in range(3600):
        world.clock.advance(1)
        looks += await loop.run_once(world.use)

    assert 9 <= looks <= 25
    assert (await only_delivery(world))["tries"] == 0


async def test_a_secret_that_cannot_be_decrypted_is_reported_and_nothing_is_sent(world: World) -> None:
    heard = receiver(world)
    task_id = await world.post(webhook_url=URL, webhook_secret=SECRET)
    await world.api.post(f"/v1/tasks/{task_id}/cancel")
    whole = world.use
    world.use = replace(whole, keys=KeyRing(("another-key-of-at-least-32-characters",)))
    await world.work()
    without = await only_delivery(world)
    world.use = replace(whole, keys=KeyRing(("another-key-of-at-least-32-characters", RING_KEY)))
    await until_due(world, without)

    assert without["attempts"][0]["error"] == "sealed"
    assert "FLUXHOOK_SECRET_KEYS" in without["detail"]
    assert len(heard.requests) == 1
    assert (await only_delivery(world))["state"] == "delivered"


async def test_a_secret_that_a_receiver_echoes_is_not_stored(world: World) -> None:
    receiver(world, Response(f"you signed with {SECRET}", 400))
    await ended(world, webhook_secret=SECRET)

    assert (await only_delivery(world))["attempts"][0]["answer"] == "you signed with [secret]"


async def test_a_replay_during_the_last_attempt_is_not_lost(each_world: World) -> None:
    heard = receiver(each_world, 500)
    await ended(each_world)
    answers: list[dict[str, Any]] = []

    async def replay_the_last() -> None:
        each_world.clock.advance(1)
        found = await only_delivery(each_world)
        if found["tries"] == len(WEBHOOK_WAITS):
            answers.append((await each_world.api.post(f"/v1/deliveries/{found['id']}/replay")).json())

    heard.meanwhile = replay_the_last
    while not answers:
        await until_due(each_world, await only_delivery(each_world))
        each_world.clock.advance(1)
        await each_world.work()

    assert (answers[0]["state"], answers[0]["tries"]) == ("waiting", 0)
    assert {**await only_delivery(each_world), **answers[0]} == await only_delivery(each_world)


@pytest.mark.parametrize("room", [0, 1, len(SECRET) - 1, len(SECRET)])
async def test_a_secret_across_the_end_of_the_stored_answer_is_redacted_too(world: World, room: int) -> None:
    receiver(world, Response(f"{SECRET}{'.' * (4096 - len(SECRET) - room)}{SECRET} and on", 400))
    await ended(world, webhook_secret=SECRET)
    answer = (await only_delivery(world))["attempts"][0]["answer"]
    ending = "[secret]" if room else ""

    assert answer == f"[secret]{'.' * (4096 - len(SECRET) - room)}{ending}"


async def test_a_resubmitted_task_sends_again_and_the_first_delivery_stays_as_it_was(world: World) -> None:
    heard = receiver(world)
    small(world)
    task_id = await world.post(prompt="an unsafe result", webhook_url=URL)
    await world.go_on(6)
    (first,) = await listed(world)
    await world.api.post(f"/v1/tasks/{task_id}/resubmit")
    await world.go_on(6)
    await world.api.post(f"/v1/deliveries/{first['id']}/replay")
    await world.work()

    assert len(heard.bodies) == 3
    assert heard.bodies[0] == heard.bodies[2]
    assert heard.ids[0] == heard.ids[2] != heard.ids[1]


async def test_the_sweep_finds_waiting_deliveries_without_a_job(each_world: World) -> None:
    receiver(each_world)
    task_id = await each_world.post(webhook_url=URL)
    await each_world.api.post(f"/v1/tasks/{task_id}/cancel")

    def lose(connection: Connection) -> None:
        for job in jobs.claim(connection, WORKER, each_world.clock.at, 99, {Step.NOTIFY}):
            jobs.finish(connection, job)

    await each_world.use.db.write(lose)
    await each_world.use.db.write(
        lambda connection: jobs.enqueue(connection, [NewJob(Step.SWEEP, "-", each_world.clock.at)])
    )
    await each_world.work()

    assert (await only_delivery(each_world))["state"] == "delivered"


async def test_webhooks_have_a_lane_of_their_own() -> None:
    assert [room for lane, room in LANES if Step.NOTIFY in lane] == [64]
    assert all(lane == {Step.NOTIFY} for lane, _ in LANES if Step.NOTIFY in lane)


async def test_a_job_for_an_unknown_endpoint_does_nothing(world: World) -> None:
    await world.use.db.write(
        lambda connection: jobs.enqueue(connection, [NewJob(Step.NOTIFY, "ep_none", world.clock.at)])
    )
    await world.work()

    assert await world.use.db.read(jobs.dead_letters) == []
    assert await world.use.db.read(lambda connection: deliveries.next_due(connection, "ep_none")) is None


async def test_an_endpoint_with_many_deliveries_is_paused_after_three_days_too(world: World) -> None:
    heard = receiver(world, 500)
    small(world)
    for _ in range(9):
        task_id = await world.post(webhook_url=URL)
        await world.api.post(f"/v1/tasks/{task_id}/cancel")
    for _ in range(26):
        await world.work()
        world.clock.advance(3 * 3600)

    assert (await endpoint(world))["state"] == "paused"
    assert {each["state"] for each in await listed(world, limit=100)} == {"waiting"}
    heard.answers = [Response()]
    await world.api.post(f"/v1/endpoints/{(await endpoint(world))['id']}/resume")
    await world.work()
    assert {each["state"] for each in await listed(world, limit=100)} == {"delivered"}


async def test_concurrent_webhooks_never_exceed_their_limit(world: World) -> None:
    heard = receiver(world)
    world.use = replace(world.use, sending=WeightedSemaphore(1))
    for _ in range(3):
        await stored_with_webhook(world)

    assert len(heard.requests) == 3
    assert world.use.sending.free == 1
