"""The provider-compatible API, as strict clients of the provider use it: statuses, response formats and links."""

import asyncio
import json
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from app.db.tables import tasks
from app.provider import ProviderResponse
from app.resources import Resources
from app.rules.task import Report, Said
from app.twin import Faults, Rules
from app.twin.rules import preset
from app.webhooks.subscription import unseal
from tests.calling import answering, caller_of
from tests.pictures import in_base64, picture
from tests.web.documents import invalid_fields, nothing_recorded, problem, rows
from tests.world import ADMIN_KEY, GATEWAY, World, with_provider

PRO, MAX = "/v1/flux-kontext-pro", "/flux/v1/flux-kontext-max"
NOBODYS = "task_0000000000000000000000000000000000000"


@pytest.fixture(autouse=True)
def small_pictures(world: World) -> None:
    world.twin.rules = Rules(megapixels=0.01)


async def submit(world: World, path: str = PRO, **fields: Any) -> dict[str, Any]:
    answer = await world.api.post(path, json={"prompt": "a red fox", **fields})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def poll(world: World, posted: dict[str, Any]) -> dict[str, Any]:
    """Poll a task; the response is 200 in every state of the task."""
    answer = await world.api.get(posted["polling_url"])
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    found: dict[str, Any] = answer.json()
    return found


def serve_with(world: World, use: Resources) -> httpx.ASGITransport:
    """Run the service with other resources; return the transport to it."""
    way = world.network.hosts["gateway"]
    assert isinstance(way, httpx.ASGITransport)
    way.app.state.use = use  # type: ignore[attr-defined]
    return way


@pytest.mark.parametrize("path", [PRO, MAX])
async def test_a_task_is_accepted_and_polled_and_its_image_comes_from_fluxhook(world: World, path: str) -> None:
    mount, _, model = path.partition("/v1/")
    posted = await submit(world, path, seed=7, aspect_ratio="16:9", safety_tolerance=3)
    assert posted == {
        "id": posted["id"],
        "polling_url": f"{GATEWAY}{mount}/v1/get_result?id={posted['id']}",
        "status": "Pending",
    }
    pending = await poll(world, posted)
    assert pending == {
        "id": posted["id"],
        "status": "Pending",
        **dict.fromkeys(["result", "progress", "details", "preview"]),
    }

    await world.go_on(6)
    ready = await poll(world, posted)

    made = ready["result"]
    assert (ready["id"], ready["status"]) == (posted["id"], "Ready")
    assert (made["prompt"], made["seed"]) == ("a red fox", 7)
    assert made["end_time"] - made["start_time"] == pytest.approx(made["duration"], abs=0.001)
    assert made["duration"] > 0
    assert ("startTime" in made) == ("endTime" in made) == (mount == "/flux")
    assert made["sample"].startswith(f"{GATEWAY}/results/")
    image = await world.outsider.get(made["sample"])
    assert image.content == (await world.api.get(f"/v1/tasks/{posted['id']}/image")).content
    assert (await world.task(posted["id"]))["model"] == model


async def test_the_status_is_ready_only_once_the_image_is_stored(world: World) -> None:
    world.twin.faults = Faults(refused_link=1)
    posted = await submit(world)
    await world.go_on(3)
    assert (await world.task(posted["id"]))["status"] == "ready"

    assert (await poll(world, posted))["status"] == "Pending"


FAILURES: dict[str, tuple[str, dict[str, Any]]] = {
    "forbidden": ("Request Moderated", {"Moderation Reasons": ["Derivative Works Filter"]}),
    "unsafe result": ("Content Moderated", {"Moderation Reasons": ["NSFW"]}),
    "fail": ("Error", {"error": "internal_error: Generation failed"}),
}


@pytest.mark.parametrize(
    ("rules", "faults"),
    [(Rules(failed_http=422), Faults(drop_callback=1)), (Rules(), Faults()), (preset("c"), Faults())],
    ids=["poll", "callback", "callback in the other form"],
)
async def test_a_failed_task_keeps_the_status_and_the_reasons_of_the_provider(
    world: World, rules: Rules, faults: Faults
) -> None:
    world.twin.rules, world.twin.faults = rules, faults
    posted = {prompt: await submit(world, prompt=prompt) for prompt in FAILURES}
    await world.go_on(70, step=5)

    for prompt, (status, details) in FAILURES.items():
        found = await poll(world, posted[prompt])
        assert (found["status"], found["result"]) == (status, None)
        if status != "Error":
            assert found["details"].items() >= details.items()
        assert found["detail"] == found["message"] == found["error"] != ""


SIGHTINGS: list[tuple[dict[str, Any], object]] = [
    ({"details": {"Moderation Reasons": ["NSFW", "Faces, of minors"]}}, ["NSFW", "Faces, of minors"]),
    ({"details": {"Moderation Reasons": "Faces, of minors"}}, "Faces, of minors"),
    ({"details": {"moderation_reasons": ["NSFW"]}}, ["NSFW"]),
    ({"result": {"Moderation Reasons": ["NSFW"]}}, ["NSFW"]),
]


@pytest.mark.parametrize(("given", "shown"), SIGHTINGS)
@pytest.mark.parametrize("first", ["with", "without"])
async def test_moderation_reasons_stay_as_they_were_given_whichever_callback_came_first(
    world: World, given: dict[str, Any], shown: object, first: str
) -> None:
    world.twin.rules = Rules(megapixels=0.01)
    posted = await submit(world)
    world.twin.faults = Faults(drop_callback=1, status_5xx=1)
    await world.work()
    caller = await caller_of(world, posted["id"])
    (theirs,) = world.twin.tasks.values()
    bodies = [{"task_id": theirs.id, "status": "Content Moderated", **more} for more in (given, {})]
    for body in bodies if first == "with" else reversed(bodies):
        assert (await caller.call(body, caller.plain_secret)).status_code == 200
    await world.work()
    found = await poll(world, posted)

    assert (found["status"], found["details"]["Moderation Reasons"]) == ("Content Moderated", shown)
    assert found["message"] == (shown if isinstance(shown, str) else ", ".join(map(str, shown)))  # type: ignore[call-overload]


async def test_reasons_of_a_callback_without_proof_are_not_shown(world: World) -> None:
    posted = await submit(world)
    world.twin.faults = Faults(drop_callback=1, status_5xx=1)
    await world.work()
    caller = await caller_of(world, posted["id"])
    (theirs,) = world.twin.tasks.values()
    body = {"task_id": theirs.id, "status": "Content Moderated"}
    await caller.call({**body, "details": {"Moderation Reasons": ["invented"]}}, {})
    await caller.call(body, caller.plain_secret)
    await world.work()

    assert (await poll(world, posted))["details"]["Moderation Reasons"] == ["Content Moderated"]


async def test_a_moderated_task_is_polled_once_for_its_reasons(world: World) -> None:
    posted = await submit(world, prompt="unsafe result")
    await world.go_on(70, 5)
    entries = await world.timeline(posted["id"], "evidence")

    assert sorted((entry["witness"], entry["effect"]) for entry in entries) == [
        ("callback", "moved"),
        ("poll", "late"),
        ("submit", "moved"),
    ]


async def test_a_seed_that_is_not_known_is_left_out(world: World) -> None:
    world.twin.faults = Faults(drop_callback=1)
    posted = await submit(world)
    await world.work()
    caller = await caller_of(world, posted["id"])
    body = caller.ready()
    del body["result"]["seed"]
    await caller.call(body)
    world.clock.advance(3)
    await world.work()
    found = await poll(world, posted)

    assert found["status"] == "Ready"
    assert "seed" not in found["result"]


async def test_the_cost_is_told_as_soon_as_it_is_known(world: World) -> None:
    headers = {"idempotency-key": "one"}
    first = await world.api.post(PRO, json={"prompt": "x"}, headers=headers)
    before = await poll(world, first.json())
    await world.work()
    again = await world.api.post(PRO, json={"prompt": "x"}, headers=headers)

    assert "cost" not in first.json()
    assert "cost" not in before
    assert again.json() == {**first.json(), "cost": 4}
    assert (await poll(world, again.json()))["cost"] == 4


async def test_a_cancelled_task_is_an_error(world: World) -> None:
    posted = await submit(world)
    await world.api.post(f"/v1/tasks/{posted['id']}/cancel")

    found = await poll(world, posted)

    assert (found["status"], found["message"]) == ("Error", "the task was cancelled")


async def test_an_image_that_is_no_longer_stored_is_an_error(world: World) -> None:
    posted = await submit(world)
    await world.go_on(6)
    await world.use.db.write(lambda connection: connection.exec_driver_sql("delete from results").rowcount)

    found = await poll(world, posted)

    assert (found["status"], found["message"]) == ("Error", "the image is no longer stored")


async def test_an_edit_sends_its_images_to_the_provider(world: World) -> None:
    photo = in_base64(picture())
    posted = await submit(world, prompt="black and white", input_image=photo, input_image_2=f"data:x;base64,{photo}")
    await world.go_on(6)

    (theirs,) = world.ledger()["tasks"]
    assert (await poll(world, posted))["status"] == "Ready"
    assert len(theirs["inputs"]) == 2


async def test_the_clients_webhook_is_sent_by_fluxhook_and_never_passed_to_the_provider(world: World) -> None:
    hook = {"webhook_url": "https://app.example/hook?a=b", "webhook_secret": "their own secret"}
    posted = await submit(world, **hook)
    await world.work()

    task = await world.use.db.read(lambda connection: tasks.get(connection, posted["id"]))
    (theirs,) = world.twin.tasks.values()
    assert task is not None
    assert (posted["status"], posted["webhook_url"]) == ("Pending", hook["webhook_url"])
    assert (task.webhook_url, task.webhook_form, task.webhook_origin) == (hook["webhook_url"], "provider", GATEWAY)
    assert unseal(world.use.keys, task.id, task.webhook_secret or "") == hook["webhook_secret"]
    assert (theirs.webhook_url or "").startswith(f"{GATEWAY}/callbacks/")
    assert theirs.webhook_secret != hook["webhook_secret"]


KEYS = [
    {"x-key": ADMIN_KEY},
    {"X-Key": ADMIN_KEY},
    {"X-KEY": ADMIN_KEY},
    {"authorization": f"Bearer {ADMIN_KEY}"},
    {"Authorization": f"bearer {ADMIN_KEY}"},
    {"Authorization": ADMIN_KEY},
    {"authorization": "Basic cHJveHk6cHJveHk=", "x-key": ADMIN_KEY},
]


async def test_a_key_is_accepted_in_every_way_that_clients_send_it(world: World) -> None:
    for path in (PRO, MAX):
        for headers in KEYS:
            posted = await world.outsider.post(path, json={"prompt": "x"}, headers=headers)
            polled = await world.outsider.get(posted.json()["polling_url"], headers=headers)

            assert (posted.status_code, polled.status_code) == (200, 200), headers


NO_KEYS: list[dict[str, str]] = [{}, {"x-key": "bad"}, {"authorization": "Bearer bad"}, {"authorization": "bad"}]
ROUTES = [("POST", "flux-kontext-pro"), ("POST", "flux-kontext-max"), ("GET", "get_result?id=x"), ("GET", "credits")]


@pytest.mark.parametrize(("mount", "status"), [("/v1", 403), ("/flux/v1", 401)])
async def test_without_a_good_key_every_route_answers_as_its_provider_does(
    world: World, mount: str, status: int
) -> None:
    for method, route in ROUTES:
        for headers in NO_KEYS:
            answer = await world.outsider.request(method, f"{mount}/{route}", headers=headers)
            found = problem(answer, status, "unauthorized")
            assert found["error"] == {"message": found["detail"], "type": str(status)}
    assert await nothing_recorded(world)


@pytest.mark.parametrize("path", ["/v1/flux-9", "/flux/v1/flux-tools/vto-v9", "/v1/flux-3-video"])
async def test_a_model_that_is_not_served_names_those_that_are(world: World, path: str) -> None:
    found = problem(await world.api.post(path, json={"prompt": "x"}), 404, "not_found")

    assert path.partition("v1/")[2] in found["detail"]
    assert "flux-kontext-pro" in found["message"]
    assert "flux-kontext-max" in found["message"]
    assert "flux-kontext" not in problem(await world.api.post("/v1/a/b"), 404)["detail"]


async def test_an_unknown_id_gets_the_providers_404_with_its_text_where_clients_look(world: World) -> None:
    for task_id in (NOBODYS, "7c9e6679-7425-40de-944b-e07fc1f90ae7", "", "\0", "a" * 5000, "é&id=x"):
        answer = await world.api.get("/v1/get_result", params={"id": task_id})

        found = answer.json()
        assert answer.status_code == 404
        assert (found["id"], found["status"], found["result"]) == (task_id, "Task not found", None)
        assert found["detail"] == found["message"] == found["error"]["message"] == "Task not found"
        assert "errors" not in found


async def test_a_poll_without_an_id_names_the_missing_parameter(world: World) -> None:
    answer = await world.api.get("/v1/get_result")

    assert invalid_fields(answer) == [{"loc": ["query", "id"], "msg": "is required", "type": "missing"}]
    assert answer.json()["fields"] == {"id": "is required"}


TOLERATED: list[dict[str, Any]] = [
    {"guidance": 2.5, "steps": 50, "raw": False},
    {"model": "flux-pro-1.1", "priority": 9, "deadline_at": "yesterday", "images": []},
    {"input_image": None, "seed": None, "aspect_ratio": None, "output_format": None, "safety_tolerance": None},
    {"prompt_upsampling": None, "webhook_url": None, "webhook_secret": None, "image_prompt": None},
    {"input_image_5": None, "seed": 42.0, "safety_tolerance": "2", "prompt_upsampling": "true"},
    {"webhook_secret": "without an address"},
    {"aspect_ratio": "4:3", "width": 1024, "height": 768},
]


async def test_fields_of_other_models_are_tolerated(world: World) -> None:
    for fields in TOLERATED:
        posted = await submit(world, **fields)

        task = await world.task(posted["id"])
        assert (task["model"], task["priority"], task["params"]["output_format"]) == ("flux-kontext-pro", 0, "png")


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"prompt": None}, "prompt"),
    ({"prompt": ["x"]}, "prompt"),
    ({"aspect_ratio": "1:9"}, "aspect_ratio"),
    ({"output_format": "gif"}, "output_format"),
    ({"safety_tolerance": 7}, "safety_tolerance"),
    ({"seed": "x"}, "seed"),
    ({"seed": True}, "seed"),
    ({"input_image": "no picture"}, "input_image"),
    ({"input_image_5": "AAAA"}, "input_image_5"),
    ({"image_prompt": "AAAA"}, "image_prompt"),
    ({"webhook_url": "ftp://app.example"}, "webhook_url"),
]


async def test_a_field_that_breaks_a_rule_is_named(world: World) -> None:
    for fields, at_fault in REFUSED:
        answer = await world.api.post(MAX, json={"prompt": "x", **fields})

        assert [field["loc"] for field in invalid_fields(answer)] == [["body", at_fault]]
        assert list(answer.json()["fields"]) == [at_fault]
        assert at_fault in answer.json()["message"]
    assert await nothing_recorded(world)


async def test_a_body_that_is_not_a_json_object_is_refused(world: World) -> None:
    for body in (b"", b"{", b"\xff", b"[" * 100_000, b'{"seed": 1' + b"0" * 5000 + b"}"):
        problem(await world.api.post(PRO, content=body), 400, "malformed_request")
    for body in (b"[]", b"null", b'"x"'):
        assert [field["loc"] for field in invalid_fields(await world.api.post(PRO, content=body))] == [["body"]]


async def test_the_type_of_an_error_is_that_of_the_library(world: World) -> None:
    fields: dict[str, Any] = {"safety_tolerance": 9, "output_format": "gif"}
    found = invalid_fields(await world.api.post(PRO, json=fields))

    assert {(field["loc"][1], field["type"]) for field in found} == {
        ("prompt", "missing"),
        ("safety_tolerance", "less_than_equal"),
        ("output_format", "literal_error"),
    }


async def test_a_bad_idempotency_key_is_in_the_header(world: World) -> None:
    found = invalid_fields(await world.api.post(PRO, json={"prompt": "x"}, headers={"idempotency-key": "\t"}))

    assert found[0]["loc"] == ["header", "idempotency-key"]


async def test_json_is_accepted_with_any_content_type(world: World) -> None:
    body = json.dumps({"prompt": "x"}).encode()
    for media_type in ("application/json", "text/plain;charset=UTF-8", "application/octet-stream"):
        answer = await world.api.post(PRO, content=body, headers={"content-type": media_type})
        assert answer.status_code == 200
    assert (await world.api.post(PRO, content=body)).status_code == 200


async def test_an_encoded_or_too_large_body_is_refused(world: World) -> None:
    problem(await world.api.post(PRO, content=b"x", headers={"content-encoding": "gzip"}), 415)
    problem(await world.api.post(PRO, content=b"{}", headers={"content-length": str(10**9)}), 413)


async def test_tasks_beyond_the_providers_limit_are_queued(world: World) -> None:
    answers = await asyncio.gather(*(world.api.post(MAX, json={"prompt": "x"}) for _ in range(9)))
    await world.work()

    assert {answer.status_code for answer in answers} == {200}
    assert world.ledger()["max_in_flight"]["flux-kontext-max"] == 6
    assert {(await poll(world, answer.json()))["status"] for answer in answers} == {"Pending"}


async def test_a_request_sent_again_with_its_idempotency_key_is_one_task(world: World) -> None:
    headers, body = {"idempotency-key": "one"}, {"prompt": "x", "images": None}
    first = await world.api.post(PRO, json=body, headers=headers)
    again = await world.api.post(f"/flux{PRO}", json=body, headers=headers)
    native = await world.api.post("/v1/tasks", json={"prompt": "x"}, headers=headers)
    other = await world.api.post(MAX, json=body, headers=headers)

    assert first.json()["id"] == again.json()["id"] == native.json()["id"]
    assert again.headers["idempotency-replayed"] == "true"
    assert "/flux/v1/" in again.json()["polling_url"]
    assert invalid_fields(other, "idempotency_key_reused")[0]["loc"] == ["header", "idempotency-key"]


@pytest.mark.parametrize("doors", [(PRO, "/v1/tasks"), ("/v1/tasks", PRO)], ids=["native last", "native first"])
async def test_a_request_with_a_webhook_is_one_task_in_both_apis(world: World, doors: tuple[str, str]) -> None:
    headers, body = {"idempotency-key": "one"}, {"prompt": "x", "webhook_url": "https://app.example.com/hook"}
    first, again = [await world.api.post(door, json=body, headers=headers) for door in doors]

    assert again.json()["id"] == first.json()["id"], again.text
    assert again.headers["idempotency-replayed"] == "true"


@pytest.mark.parametrize(("form", "status"), [("provider", 200), ("event", 422)])
async def test_only_the_provider_form_matches_a_request_to_the_native_api(world: World, form: str, status: int) -> None:
    """The digest of the first is also the one that earlier versions of this API stored."""
    headers, body = {"idempotency-key": "one"}, {"prompt": "x", "webhook_url": "https://app.example.com/hook"}
    first = await world.api.post("/v1/tasks", json={**body, "webhook_form": form}, headers=headers)
    again = await world.api.post(PRO, json=body, headers=headers)

    assert (first.status_code, again.status_code) == (202, status)
    assert (await rows(world))["tasks"] == 1


async def test_the_first_request_determines_the_form_of_the_webhook(world: World) -> None:
    await world.api.patch("/v1/keys/key_admin", json={"webhook_form": "event"})
    headers, body = {"idempotency-key": "one"}, {"prompt": "x", "webhook_url": "https://app.example.com/hook"}
    native = await world.api.post("/v1/tasks", json=body, headers=headers)
    again = await world.api.post(PRO, json=body, headers=headers)
    other = await submit(world, PRO, webhook_url="https://app.example.com/hook")

    assert again.json()["id"] == native.json()["id"]
    assert (await world.task(native.json()["id"]))["webhook"]["form"] == "event"
    assert (await world.task(other["id"]))["webhook"]["form"] == "provider"


@pytest.mark.parametrize(("size", "status"), [(1_000_000, 422), (1_100_000, 413)])
async def test_an_unknown_field_counts_towards_the_limit_without_images(world: World, size: int, status: int) -> None:
    problem(await world.api.post(PRO, json={"prompt": "x", "guidance": "A" * size}), status)
    assert await nothing_recorded(world)


ORIGINS = [
    # PUBLIC_URL, the URL and the Host header of the request, the beginnings of polling_url and of other links
    (None, "http://localhost:8080", "localhost:8080", "http://localhost:8080", None),
    (None, "https://flux.example.com", "flux.example.com", "https://flux.example.com", None),
    (None, "http://127.0.0.1:8080", "evil.example", "http://127.0.0.1:8080", None),
    (None, "http://[::1]:8080", "[::1]:8080", "http://[::1]:8080", None),
    (
        "https://flux.example.com",
        "http://10.0.0.7:8080",
        "10.0.0.7:8080",
        "http://10.0.0.7:8080",
        "https://flux.example.com",
    ),
    ("https://flux.example.com", "http://127.0.0.1:80", "localhost", "http://localhost", "https://flux.example.com"),
    ("https://flux.example.com", "http://x", "evil.example", "https://flux.example.com", None),
    ("https://example.com/images", "http://x", "example.com", "https://example.com/images", None),
    # Only with a twin: containers and their host use different names for the service.
    ("http://fluxhook:8080", "http://127.0.0.1:9000", "127.0.0.1:9000", "http://127.0.0.1:9000", None),
    ("http://fluxhook:8080", "http://x", "evil.example", "http://fluxhook:8080", None),
]


async def test_links_are_absolute_and_on_the_origin_that_the_caller_may_use(world: World) -> None:
    done = await submit(world)
    await world.go_on(6)
    for public_url, base, host, polled_at, linked_at in ORIGINS:
        way = serve_with(world, replace(world.use, public_url=public_url))
        headers = {"x-key": ADMIN_KEY, "host": host}
        async with httpx.AsyncClient(transport=way, base_url=base, headers=headers) as client:
            posted = (await client.post(MAX, json={"prompt": "x"})).json()
            polled = (await client.get("/v1/get_result", params={"id": done["id"]})).json()

        assert posted["polling_url"].startswith(f"{polled_at}/flux/v1/get_result?id=task_")
        assert parse_qs(urlsplit(posted["polling_url"]).query) == {"id": [posted["id"]]}
        assert polled["result"]["sample"].startswith(f"{linked_at or polled_at}/results/{done['id']}.png?")


@pytest.mark.parametrize("header", ["x-forwarded-for", "x-forwarded-host", "forwarded", "via"])
async def test_a_proxy_that_names_itself_as_the_host_does_not_change_the_polling_url(world: World, header: str) -> None:
    way = serve_with(world, replace(world.use, public_url="https://flux.example.com"))
    headers = {"x-key": ADMIN_KEY, "host": "upstream:8080", header: "203.0.113.7"}
    async with httpx.AsyncClient(transport=way, base_url="http://upstream:8080", headers=headers) as client:
        posted = (await client.post(PRO, json={"prompt": "x"})).json()

    assert posted["polling_url"].startswith("https://flux.example.com/v1/get_result?id=task_")


@pytest.mark.parametrize("host", ["upstream:8080", "169.254.169.254", "evil.example"])
@pytest.mark.parametrize("forwarded", [True, False])
async def test_a_caller_outside_of_private_networks_decides_no_link(world: World, host: str, forwarded: bool) -> None:
    service = serve_with(world, replace(world.use, public_url=None)).app
    way = httpx.ASGITransport(service, client=("10.0.0.9" if forwarded else "93.184.216.34", 40_000))
    headers = {"x-key": ADMIN_KEY, "host": host, **({"x-forwarded-for": "203.0.113.7"} if forwarded else {})}
    async with httpx.AsyncClient(transport=way, base_url="http://10.0.0.1:8080", headers=headers) as client:
        posted = (await client.post(PRO, json={"prompt": "x"})).json()

    assert posted["polling_url"].startswith("http://10.0.0.1:8080/v1/get_result?id=task_")


async def test_an_invalid_host_header_is_refused(world: World) -> None:
    for host in ("a b", "a@b.example", "a/b", 'a"><x', "a:b", "a:1:2", "a:99999", "[:::]", ""):
        problem(await world.api.post(PRO, json={"prompt": "x"}, headers={"host": host}), 400, "malformed_request")
    assert await nothing_recorded(world)


async def test_credits_come_from_the_provider_and_are_cached_for_ten_seconds(world: World) -> None:
    before = await world.api.get("/v1/credits")
    await submit(world)
    await world.work()
    at_once = await world.api.get("/flux/v1/credits")
    world.clock.advance(10)
    after = await world.api.get("/v1/credits")

    assert [each.json() for each in (before, at_once, after)] == [{"credits": n} for n in (10_000, 10_000, 9_996)]


def heard(status: int | None, body: bytes = b"") -> ProviderResponse:
    return ProviderResponse(Report(Said.LOST, detail="not reached: ConnectError"), status, {}, body)


NO_BALANCE = [
    (heard(None), 503, "the provider did not answer"),
    (heard(403, b'{"detail": "Not authenticated"}'), 503, "the provider rejects the configured key"),
    (heard(403, b"<html>"), 503, "a gateway in front of the provider refuses requests"),
    (heard(404), 404, "the provider does not report a balance"),
    (heard(502, b"<html>"), 503, "the provider did not return a balance: HTTP 502"),
    (heard(200, b'{"credits": "many"}'), 503, "the provider did not return a balance: HTTP 200"),
]


async def test_a_missing_balance_is_answered_with_its_reason(world: World) -> None:
    provider = answering()
    serve_with(world, with_provider(world.use, provider))
    for answer, status, detail in NO_BALANCE:
        provider.fetched = answer
        world.clock.advance(10)

        assert problem(await world.api.get("/v1/credits"), status)["detail"].startswith(detail)


async def test_without_a_provider_key_the_answer_says_so(world: World) -> None:
    serve_with(world, with_provider(world.use, None))

    problem(await world.api.get("/v1/credits"), 503)
    problem(await world.api.post(PRO, json={"prompt": "x"}), 503)
