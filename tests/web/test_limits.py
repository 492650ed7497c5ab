"""The limits of an application over HTTP: each refuses with its name, and leaves other applications alone."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import Response

from app.db import Connection
from app.db.tables import endpoints
from app.main import create_app
from app.notify import notify
from app.rules.turns import Turns
from app.store import Uploads
from tests.applications import application
from tests.calling import small
from tests.databases import listening_for, statements
from tests.faults import BreakingStore, Trip
from tests.pictures import in_base64, padded, picture
from tests.receivers import HOST, receiver
from tests.sockets import listening, serving, until
from tests.test_collect import files
from tests.web.documents import nothing_recorded, problem
from tests.world import GATEWAY, World


async def post(world: World, headers: dict[str, str], **members: Any) -> httpx.Response:
    return await world.outsider.post("/v1/tasks", json={"prompt": "a red fox", **members}, headers=headers)


async def post_to(app: Any, headers: dict[str, str]) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=GATEWAY) as client:
        return await client.post("/v1/tasks", json={"prompt": "a red fox"}, headers=headers)


class HeldAnswer:
    """Wraps an ASGI application: its connection takes the last byte of an answer only when the test lets it."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.is_ready, self.may_end = asyncio.Event(), asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def held(message: Any) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                self.is_ready.set()
                await self.may_end.wait()
            await send(message)

        await self._app(scope, receive, held)


def refused(answer: httpx.Response, limit: str) -> int:
    """Check the refusal by a limit, and return the seconds to wait."""
    assert problem(answer, 429, "limit_exceeded")["limit"] == limit
    return int(answer.headers["retry-after"])


async def test_exactly_as_many_tasks_as_the_limit_are_queued_by_parallel_posts(each_world: World) -> None:
    shop = await application(each_world, "shop", limits={"queued": 5})

    answers = await asyncio.gather(*(post(each_world, shop) for _ in range(12)))

    assert Counter(answer.status_code for answer in answers) == {202: 5, 429: 7}
    assert {refused(answer, "queued") for answer in answers if answer.status_code == 429} == {10}
    assert (await each_world.api.post("/v1/tasks", json={"prompt": "a fox"})).status_code == 202


async def test_a_task_that_leaves_the_queue_makes_room_for_another(world: World) -> None:
    small(world)
    shop = await application(world, "shop", limits={"queued": 1})
    assert [(await post(world, shop)).status_code for _ in range(2)] == [202, 429]
    await world.work()

    assert (await post(world, shop)).status_code == 202


def inputs(folder: Path) -> list[str]:
    return [name for name in files(folder) if "inputs/" in name]


@pytest.mark.parametrize(
    ("limits", "budget", "status"),
    [({"queued": 1}, None, 429), ({"posts_per_minute": 1}, None, 429), ({}, (4, "day"), 402)],
    ids=["queued", "posts a minute", "budget"],
)
async def test_a_refused_post_leaves_no_image_in_the_store(
    each_world: World, tmp_path: Path, limits: dict[str, int | None], budget: tuple[float, str] | None, status: int
) -> None:
    shop = await application(each_world, "shop", limits=limits, budget=budget)
    image = in_base64(picture(64, 64))
    assert (await post(each_world, shop, input_image=image)).status_code == 202
    kept = inputs(tmp_path)
    assert len(kept) == 1

    assert (await post(each_world, shop, input_image=image)).status_code == status
    await each_world.work()
    assert inputs(tmp_path) == kept


async def test_a_full_queue_refuses_a_post_before_its_image_is_stored(world: World, tmp_path: Path) -> None:
    shop = await application(world, "shop", limits={"queued": 1})
    assert (await post(world, shop)).status_code == 202

    assert (await post(world, shop, input_image=in_base64(picture(64, 64)))).status_code == 429
    assert inputs(tmp_path) == []


async def test_a_post_leaves_no_image_if_the_store_fails_at_its_second_one(each_world: World, tmp_path: Path) -> None:
    shop = await application(each_world, "shop")
    store = BreakingStore(tmp_path / "images")
    store.trip = Trip(2)
    image = in_base64(picture(64, 64))
    body = {"model": "flux-2-pro", "prompt": "a fox", "input_image": image, "input_image_2": image}
    async with served(each_world, store=store) as address, httpx.AsyncClient(base_url=address, timeout=60) as client:
        assert (await client.post("/v1/tasks", json=body, headers=shop)).status_code == 503
        assert store.trip.calls == 2
    await each_world.work()

    assert inputs(tmp_path) == []


async def test_posts_beyond_the_rate_wait_for_their_share_of_a_minute(each_world: World) -> None:
    shop = await application(each_world, "shop", limits={"posts_per_minute": 6})
    answers = await asyncio.gather(*(post(each_world, shop) for _ in range(9)))
    waits = {refused(answer, "posts_per_minute") for answer in answers if answer.status_code == 429}
    each_world.clock.advance(10)
    later = [(await post(each_world, shop)).status_code for _ in range(2)]

    assert Counter(answer.status_code for answer in answers) == {202: 6, 429: 3}
    assert waits == {10}
    assert later == [202, 429]


async def test_a_refused_post_does_not_get_the_task_of_a_post_that_is_answered_meanwhile(world: World) -> None:
    """The first post is answered while the second one reads what it might join."""
    shop = await application(world, "shop", limits={"posts_per_minute": 1})
    transport = world.network.hosts["gateway"]
    assert isinstance(transport, httpx.ASGITransport)
    held, loop = HeldAnswer(transport.app), asyncio.get_running_loop()
    answers = transport.app.state.answers  # type: ignore[attr-defined] # the application of FastAPI
    first = asyncio.create_task(post_to(held, shop))
    await held.is_ready.wait()
    (request_id,) = answers.pending

    def answer_first(_connection: Connection) -> None:
        if any("FROM undelivered_requests" in statement for statement in read):
            loop.call_soon_threadsafe(answers.note_delivered, request_id)

    with statements(world.use.db) as read, listening_for(world.use.db, "commit", answer_first):
        second = await post(world, shop)
    held.may_end.set()

    assert refused(second, "posts_per_minute")
    assert (await first).status_code == 202


async def test_a_priority_above_the_limit_is_refused(world: World) -> None:
    shop = await application(world, "shop")
    trusted = await application(world, "trusted", limits={"priority": 3})

    found = problem(await post(world, shop, priority=1), 422)

    assert found["fields"] == {"priority": "must be at most 0 for this application"}
    assert await nothing_recorded(world)
    assert [(await post(world, trusted, priority=wanted)).status_code for wanted in (3, 4)] == [202, 422]
    assert (await world.api.post("/v1/tasks", json={"prompt": "a fox", "priority": 9})).status_code == 202


@pytest.mark.parametrize("mount", ["", "/flux"])
async def test_the_provider_compatible_api_refuses_by_the_same_limits(world: World, mount: str) -> None:
    shop = await application(world, "shop", limits={"posts_per_minute": 0})

    answer = await world.outsider.post(f"{mount}/v1/flux-kontext-pro", json={"prompt": "a fox"}, headers=shop)

    assert refused(answer, "posts_per_minute") == 60


async def test_a_refused_request_can_be_repeated_with_its_idempotency_key(world: World) -> None:
    shop = await application(world, "shop", limits={"posts_per_minute": 1})
    await post(world, shop)
    again = {**shop, "idempotency-key": "one"}
    first = await post(world, again)
    world.clock.advance(60)
    second = await post(world, again)

    assert (first.status_code, second.status_code) == (429, 202)


@asynccontextmanager
async def served(world: World, **changes: Any) -> AsyncGenerator[str]:
    """The address of the service on a socket."""
    bound, address = listening()
    async with serving(create_app(nullcontext(replace(world.use, **changes)), with_worker=False), bound):
        yield address


async def test_event_streams_beyond_the_limit_are_refused_until_one_ends(world: World) -> None:
    shop, club = await application(world, "shop", limits={"streams": 1}), await application(world, "club")
    async with served(world) as address, httpx.AsyncClient(base_url=address, timeout=60) as client:

        async def opened(headers: dict[str, str], held: AsyncExitStack) -> httpx.Response:
            request = client.stream("GET", "/v1/events", headers={**headers, "accept": "text/event-stream"})
            answer = await held.enter_async_context(request)
            if answer.status_code != 200:
                await answer.aread()
            return answer

        async def opens_again() -> bool:
            async with AsyncExitStack() as briefly:
                return (await opened(shop, briefly)).status_code == 200

        async with AsyncExitStack() as held:
            assert (await opened(shop, held)).status_code == 200
            assert refused(await opened(shop, held), "streams") == 5
            assert (await opened(club, held)).status_code == 200
        await until(opens_again)


async def test_large_bodies_beyond_the_limit_are_refused_and_those_of_others_are_not(
    world: World, tmp_path: Path
) -> None:
    shop, club = await application(world, "shop", limits={"uploads": 1}), await application(world, "club")
    uploads = Uploads(tmp_path / "uploads", world.use.disk, wait_s=0)
    uploads.empty()
    body = b'{"prompt": "a fox", "input_image": "' + in_base64(padded(200_000)).encode() + b'"}'
    begun, goes_on = asyncio.Event(), asyncio.Event()

    async def slowly() -> AsyncGenerator[bytes]:
        yield body[:100_000]
        begun.set()
        await goes_on.wait()
        yield body[100_000:]

    async with served(world, uploads=uploads) as address, httpx.AsyncClient(base_url=address, timeout=60) as client:

        async def send(headers: dict[str, str], content: Any) -> httpx.Response:
            return await client.post(
                "/v1/tasks", content=content, headers={**headers, "content-type": "application/json"}
            )

        owner = (await client.get("/v1/limits", headers=shop)).json()["application_id"]
        first = asyncio.create_task(send(shop, slowly()))
        await begun.wait()

        async def has_its_place() -> bool:
            return world.use.uploading.held(owner) == 1

        await until(has_its_place)
        assert refused(await send(shop, body), "uploads") == 5
        assert (await send(club, body)).status_code == 202
        goes_on.set()
        assert (await first).status_code == 202
        assert (await send(shop, body)).status_code == 202


@pytest.mark.parametrize("form", ["JSON", "multipart"])
async def test_large_images_of_one_application_wait_for_its_turn_and_those_of_others_do_not(
    world: World, tmp_path: Path, form: str
) -> None:
    shop, club = await application(world, "shop"), await application(world, "club")
    uploads, turns = Uploads(tmp_path / "uploads", world.use.disk), Turns(at_once=1, patience_s=3600)
    uploads.empty()
    body: dict[str, Any] = {"json": {"prompt": "a fox", "input_image": in_base64(padded(200_000))}}
    if form == "multipart":
        body = {"data": {"prompt": "a fox"}, "files": {"input_image": padded(200_000)}}

    async with (
        served(world, uploads=uploads, working=turns) as address,
        httpx.AsyncClient(base_url=address) as client,
    ):
        owner = (await client.get("/v1/limits", headers=shop)).json()["application_id"]
        async with turns.taken(owner):
            waiting = asyncio.create_task(client.post("/v1/tasks", headers=shop, **body))
            other = await client.post("/v1/tasks", headers=club, **body)
            small = await client.post("/v1/tasks", headers=shop, json={"prompt": "a fox"})
            assert (other.status_code, small.status_code, waiting.done()) == (202, 202, False)
        assert (await waiting).status_code == 202


@pytest.mark.parametrize("path", ["/v1/tasks", "/v1/flux-kontext-pro", "/openai/v1/images/edits"])
async def test_slow_hosts_of_images_of_one_application_leave_room_for_the_images_of_others(
    world: World, tmp_path: Path, path: str
) -> None:
    shop, club = await application(world, "shop", limits={"uploads": 2}), await application(world, "club")
    world.network.add(HOST, Response(picture()))
    at_once = replace(world.use, uploads=Uploads(tmp_path / "uploads", world.use.disk, wait_s=0))
    at_once.uploads.empty()
    url = f"https://{HOST}/fox.png"
    is_edit = path.endswith("edits")
    body: dict[str, Any] = {"prompt": "forbidden"}
    body |= {"model": "flux-kontext-pro", "images": [{"image_url": url}]} if is_edit else {"input_image": url}

    app = create_app(nullcontext(at_once), at_once.catalog, with_worker=False)
    async with app.router.lifespan_context(app), at_once.fetching_of.taken("app_shop", None, units=2):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            full = await client.post(path, json=body, headers=shop)
            other = asyncio.create_task(client.post(path, json=body, headers=club))
            while not other.done():
                await world.go_on(1)
                await asyncio.sleep(0.01)
    assert (full.status_code, full.headers["retry-after"], '"limit":"uploads"' in full.text) == (429, "5", True)
    assert (await other).status_code < 300 or "content_policy_violation" in (await other).text


async def test_test_deliveries_beyond_the_rate_are_refused(world: World) -> None:
    shop = await application(world, "shop", limits={"tests_per_minute": 2})
    url = {"webhook_url": "https://93.184.216.34/hooks"}

    answers = [await world.outsider.post("/v1/endpoints/test", json=url, headers=shop) for _ in range(3)]

    assert [answer.status_code for answer in answers[:2]] == [202, 202]
    assert refused(answers[2], "tests_per_minute") == 30


async def test_slow_receivers_of_one_application_leave_room_for_the_webhooks_of_others(world: World) -> None:
    shop, club = await application(world, "shop", limits={"deliveries": 1}), await application(world, "club")
    answers = asyncio.Event()

    async def until_answered() -> None:
        await answers.wait()

    slow = [receiver(world, host=f"93.184.216.{number}") for number in (1, 2)]
    quick = receiver(world, host="93.184.216.9")
    for heard in slow:
        heard.meanwhile = until_answered
    urls = [f"https://93.184.216.{number}/hooks" for number in (1, 2, 9)]
    for url, headers in zip(urls, (shop, shop, club), strict=True):
        task = (await post(world, headers, webhook_url=url)).json()["id"]
        await world.api.post(f"/v1/tasks/{task}/cancel")
    found = await world.use.db.read(lambda c: endpoints.newest(c, limit=9, before=None, state=None, owner=None))
    by_url = {endpoint.url: endpoint.id for endpoint in found}

    first = asyncio.create_task(notify(world.use, by_url[urls[0]]))
    await until(lambda: heard_by(slow[0]))
    await notify(world.use, by_url[urls[1]])
    await notify(world.use, by_url[urls[2]])
    assert (len(slow[1].requests), len(quick.requests)) == (0, 1)

    answers.set()
    await first
    world.clock.advance(3)
    await world.work()
    assert len(slow[1].requests) == 1


async def heard_by(heard: Any) -> bool:
    return bool(heard.requests)


async def test_an_application_sees_its_limits_and_an_admin_key_those_of_each(world: World) -> None:
    shop = await application(world, "shop", limits={"queued": 5, "posts_per_minute": 60}, budget=(40, "day"))
    club = await application(world, "club")
    await post(world, shop)

    own = (await world.outsider.get("/v1/limits", headers=shop)).json()
    seen = (await world.api.get("/v1/limits", params={"application": "app_shop"})).json()
    admin = (await world.api.get("/v1/limits")).json()["limits"]

    assert own == seen
    assert own == {
        "application_id": "app_shop",
        "limits": {
            "in_flight": None,
            "queued": 5,
            "posts_per_minute": 60,
            "uploads": 16,
            "streams": 100,
            "deliveries": 16,
            "tests_per_minute": 30,
            "priority": 0,
        },
        "in_use": {"in_flight": 1, "queued": 1},
        "budget": {
            "credits": 40,
            "period": "day",
            "spent": 4,
            "remaining": 36,
            "resets_at": "2026-01-02T00:00:00Z",
        },
        "service_budget": None,
    }
    assert {name for name, limit in admin.items() if limit is not None} == {"priority"}
    problem(await world.outsider.get("/v1/limits", params={"application": "app_shop"}, headers=club), 404)
    problem(await world.api.get("/v1/limits", params={"application": "app_none"}), 404)


async def test_a_higher_limit_of_tasks_in_flight_lets_queued_tasks_start_at_once(each_world: World) -> None:
    made = await each_world.api.post("/v1/applications", json={"name": "shop", "limits": {"in_flight": 1}})
    path = f"/v1/applications/{made.json()['id']}"
    key = await each_world.api.post(f"{path}/keys", json={"name": "first"})
    shop = {"x-key": key.json()["key"]}
    for _ in range(3):
        await post(each_world, shop)
    before = (await each_world.outsider.get("/v1/limits", headers=shop)).json()["in_use"]

    raised = await each_world.api.patch(path, json={"limits": {"in_flight": 2}})

    assert raised.status_code == 200, raised.text
    after = (await each_world.outsider.get("/v1/limits", headers=shop)).json()["in_use"]
    assert (before["in_flight"], after["in_flight"]) == (1, 2)
