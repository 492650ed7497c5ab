"""Tasks in the native API: post, read, list in pages, wait, and the timeline."""

import asyncio
from typing import Any

import httpx
import pytest

from tests.web.documents import problem
from tests.world import World

NO_SUCH_TASK = "task_0000000000000000000000000000000000000"


async def listed(world: World, **query: Any) -> dict[str, Any]:
    answer = await world.api.get("/v1/tasks", params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def ids_of(world: World, **query: Any) -> list[str]:
    return [task["id"] for task in (await listed(world, **query))["tasks"]]


async def test_a_posted_task_is_accepted_with_its_address_and_every_parameter(each_world: World) -> None:
    answer = await each_world.api.post("/v1/tasks", json={"prompt": "a red fox", "seed": 7, "aspect_ratio": "16:9"})

    task = answer.json()
    assert (answer.status_code, task["status"], task["created_at"]) == (202, "queued", "2026-01-01T12:00:00Z")
    assert task["params"] == {
        "prompt": "a red fox",
        "seed": 7,
        "aspect_ratio": "16:9",
        "output_format": "png",
        "prompt_upsampling": False,
        "safety_tolerance": 2,
        "user": None,
        "images": [],
    }
    assert (await each_world.api.get(answer.headers["location"])).json() == task


async def test_a_stored_task_shows_its_times_and_its_image_and_never_the_providers_link(each_world: World) -> None:
    task_id = await each_world.post()
    await each_world.go_on(6)

    answer = await each_world.api.get(f"/v1/tasks/{task_id}")

    task = answer.json()
    assert task["status"] == "stored"
    assert task["created_at"] <= task["submitting_at"] <= task["submitted_at"] <= task["ready_at"] <= task["stored_at"]
    assert task["image"]["url"] == f"/v1/tasks/{task_id}/image"
    assert (task["cost"], task["failure"]) == (4.0, None)
    assert "http://" not in answer.text


async def test_a_failed_task_shows_why_and_whether_money_was_spent(each_world: World) -> None:
    task_id = await each_world.post(prompt="an unsafe result")
    await each_world.go_on(30)

    task = await each_world.task(task_id)

    assert task["status"] == "failed"
    assert task["failure"] == {"code": "content_moderated", "detail": "Content Moderated", "money_spent": "maybe"}
    assert task["image"] is None


async def test_the_timeline_shows_everything_in_order(each_world: World) -> None:
    task_id = await each_world.post()
    await each_world.go_on(6)

    entries = (await each_world.api.get(f"/v1/tasks/{task_id}/timeline")).json()["entries"]

    assert [entry["at"] for entry in entries] == sorted(entry["at"] for entry in entries)
    assert {entry["event"] for entry in entries} == {"phase", "submission", "evidence", "download"}
    verdicts = {(entry["witness"], entry["verdict"]) for entry in entries if entry["event"] == "evidence"}
    assert verdicts == {("submit", "fetched"), ("callback", "shared_secret")}


@pytest.mark.parametrize(
    "task_id",
    [
        NO_SUCH_TASK,
        NO_SUCH_TASK.upper(),
        NO_SUCH_TASK + "0",
        NO_SUCH_TASK + "%0a",
        "%00",
        "..%2f..%2fetc%2fpasswd",
        "%ff%fe",
        "%ed%a0%80",
        "%0d%0aset-cookie:%20a=b",
        "x" * 5000,
    ],
    ids=lambda value: value[:50],
)
async def test_an_unknown_id_is_not_found(world: World, task_id: str) -> None:
    for tail in ("", "/timeline", "/image"):
        answer = await world.api.get(f"/v1/tasks/{task_id}{tail}")

        assert "set-cookie" not in answer.headers
        problem(answer, 404, "not_found")


async def test_both_databases_survive_any_text_in_a_path(each_world: World) -> None:
    problem(await each_world.api.get("/v1/tasks/%00"), 404)
    problem(await each_world.api.get("/v1/tasks/%00/timeline"), 404)
    problem(await each_world.api.get("/v1/tasks/%00/image"), 404)
    problem(await each_world.api.get("/v1/tasks?model=%00"), 422)
    problem(await each_world.api.get("/v1/tasks?cursor=%00"), 422)


async def test_45_tasks_come_newest_first_in_pages_without_gaps_or_doubles(each_world: World) -> None:
    posted = []
    for number in range(45):
        each_world.clock.advance(0.001 if number else 0)
        posted.append(await each_world.post())
    pages: list[list[str]] = []
    cursor: dict[str, str] = {}

    while True:
        page = await listed(each_world, **cursor)
        pages.append([task["id"] for task in page["tasks"]])
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}

    assert [len(page) for page in pages] == [20, 20, 5]
    assert [task_id for page in pages for task_id in page] == posted[::-1]


async def test_a_task_posted_between_two_pages_shifts_nothing(world: World) -> None:
    posted = [await world.post() for _ in range(4)]
    first = await listed(world, limit=2)
    world.clock.advance(1)
    await world.post()

    second = await ids_of(world, limit=2, cursor=first["next_cursor"])

    assert {task["id"] for task in first["tasks"]} | set(second) == set(posted)


async def test_a_last_page_that_is_full_has_no_next(world: World) -> None:
    await world.post()
    await world.post()

    assert (await listed(world, limit=2))["next_cursor"] is None


async def test_the_list_can_be_narrowed_by_state_and_by_model(each_world: World) -> None:
    stored = await each_world.post()
    await each_world.go_on(6)
    queued = await each_world.post(model="flux-kontext-max")

    assert await ids_of(each_world, status="stored") == [stored]
    assert await ids_of(each_world, model="flux-kontext-max") == [queued]
    assert await ids_of(each_world, status="failed") == []
    assert await ids_of(each_world, status="queued", model="flux-kontext-pro") == []


async def test_several_states_count_together_in_pages_too(each_world: World) -> None:
    stored = await each_world.post()
    await each_world.go_on(6)
    cancelled = await each_world.post()
    await each_world.api.post(f"/v1/tasks/{cancelled}/cancel")
    each_world.clock.advance(1)
    queued = await each_world.post(model="flux-kontext-max")

    assert await ids_of(each_world, status=["queued", "stored"]) == [queued, stored]
    assert await ids_of(each_world, status=["cancelled", "stored"], model="flux-kontext-pro") == [cancelled, stored]
    first = await listed(each_world, status=["queued", "cancelled"], limit=1)
    second = await listed(each_world, status=["queued", "cancelled"], limit=1, cursor=first["next_cursor"])
    assert [page["tasks"][0]["id"] for page in (first, second)] == [queued, cancelled]


async def test_the_list_can_be_narrowed_by_the_time_of_creation(each_world: World) -> None:
    posted = []
    for _ in range(4):
        posted.append(await each_world.post())
        each_world.clock.advance(60)
    created = [(await each_world.task(task_id))["created_at"] for task_id in posted]

    assert await ids_of(each_world, created_after=created[1]) == posted[:0:-1]
    assert await ids_of(each_world, created_before=created[1]) == posted[:1]
    assert await ids_of(each_world, created_after=created[1], created_before=created[3]) == [posted[2], posted[1]]
    page = await listed(each_world, created_before=created[3], status=["queued", "failed"], limit=2)
    rest = await ids_of(each_world, created_before=created[3], limit=2, cursor=page["next_cursor"])
    assert rest == posted[:1]
    assert await ids_of(each_world, created_before=created[0], cursor=posted[3]) == []


LISTS = ["tasks", "callbacks", "events", "deliveries", "endpoints", "keys", "usage", "jobs/held"]


@pytest.mark.parametrize("path", LISTS)
async def test_a_list_refuses_a_parameter_that_it_does_not_have(world: World, path: str) -> None:
    found = problem(await world.api.get(f"/v1/{path}?colour=red&limit&x=1&x=2"), 422, "invalid_request")

    assert {"colour", "x"} <= found["fields"].keys()
    assert found["fields"]["colour"].startswith("unknown parameter")
    problem(await world.outsider.get(f"/v1/{path}?colour=red"), 401, "unauthorized")


@pytest.mark.parametrize("query", ["limit=1&limit=2", "model=flux-kontext-pro&model=flux-kontext-max", "cursor&cursor"])
async def test_a_parameter_with_one_value_is_refused_if_it_is_given_twice(world: World, query: str) -> None:
    found = problem(await world.api.get(f"/v1/tasks?{query}"), 422)

    assert found["fields"] == {query.partition("=")[0].partition("&")[0]: "given more than once"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit", "0"),
        ("limit", "101"),
        ("limit", "-1"),
        ("limit", ""),
        ("limit", "1e1"),
        ("limit", "9" * 5000),
        ("cursor", ""),
        ("cursor", "x"),
        ("cursor", NO_SUCH_TASK + "\n"),
        ("cursor", "task_%' OR 1=1"),
        ("status", ""),
        ("status", "lost"),
        ("created_after", "yesterday"),
        ("created_before", "2026-01-01T12:00:00"),
        ("model", "a" * 65),
        ("model", "\udcff"),
        ("model", "';--"),
    ],
    ids=lambda value: repr(value)[:30],
)
async def test_a_wrong_query_is_refused_by_name(world: World, name: str, value: str) -> None:
    answer = await world.api.get(httpx.URL("/v1/tasks", query=_encoded(name, value)))

    assert list(problem(answer, 422)["fields"]) == [name]


def _encoded(name: str, value: str) -> bytes:
    return f"{name}=".encode() + b"".join(b"%%%02x" % byte for byte in value.encode(errors="surrogateescape"))


@pytest.mark.parametrize("limit", [1, 100])
async def test_the_bounds_of_limit_are_accepted(world: World, limit: int) -> None:
    await world.post()

    assert len(await ids_of(world, limit=limit)) == 1


async def test_a_query_of_a_thousand_unknown_names_is_refused_in_short(world: World) -> None:
    answer = await world.api.get("/v1/tasks?" + "&".join(f"a{number}=b" for number in range(1000)))

    assert len(problem(answer, 422)["fields"]) == 50


async def test_a_request_that_waits_is_answered_when_the_task_is_final(world: World) -> None:
    asked = world.api.post("/v1/tasks", json={"prompt": "a red fox"}, headers={"prefer": "wait=30"})
    answer, _ = await asyncio.gather(asked, world.go_on(20))

    assert (answer.status_code, answer.json()["status"]) == (200, "stored")
    assert answer.headers["preference-applied"] == "wait=30"
    assert answer.headers["location"] == f"/v1/tasks/{answer.json()['id']}"


async def test_a_final_task_is_not_waited_for(world: World) -> None:
    task_id = await world.post()
    await world.go_on(6)

    answer = await asyncio.wait_for(world.api.get(f"/v1/tasks/{task_id}", headers={"prefer": "wait=60"}), 50)

    assert (answer.status_code, answer.json()["status"]) == (200, "stored")


async def test_an_unfinished_task_is_waited_for(world: World) -> None:
    task_id = await world.post()
    asked = asyncio.create_task(world.api.get(f"/v1/tasks/{task_id}", headers={"prefer": "wait=999999999"}))
    await world.work()
    status, was_answered = (await world.task(task_id))["status"], asked.done()
    await world.go_on(20)
    answer = await asked

    assert (status, was_answered) == ("submitted", False)
    assert answer.json()["status"] == "stored"


@pytest.mark.parametrize(
    "prefer",
    [
        "",
        "wait",
        "wait=",
        "wait=0",
        "wait=" + "0" * 5000,
        "wait=-1",
        "wait=soon",
        "wait=0.5",
        "wait=5s",
        "waiter=5",
        "await=5",
        "a=b",
        "9" * 5000,
    ],
    ids=lambda value: value[:20] or "empty",
)
async def test_a_preference_without_a_valid_wait_does_not_wait(world: World, prefer: str) -> None:
    answer = await asyncio.wait_for(
        world.api.post("/v1/tasks", json={"prompt": "a red fox"}, headers={"prefer": prefer}), 30
    )

    assert answer.status_code == 202
    assert "preference-applied" not in answer.headers


@pytest.mark.parametrize("prefer", ["respond-async, wait=7", "Wait = 7", 'wait="7"', "a=b; c=d, wait=7"])
async def test_a_preference_is_read_among_others(world: World, prefer: str) -> None:
    task_id = await world.post()
    await world.go_on(6)

    answer = await world.api.get(f"/v1/tasks/{task_id}", headers={"prefer": prefer})

    assert answer.headers["preference-applied"] == "wait=7"


@pytest.mark.parametrize(
    ("number", "heeded"),
    [("61", "60"), ("9999999999", "60"), ("9" * 5000, "60"), ("0000000000007", "7"), ("0" * 5000 + "7", "7")],
    ids=lambda value: value[:14],
)
async def test_a_wait_of_any_number_of_digits_is_cut_to_a_minute(world: World, number: str, heeded: str) -> None:
    task_id = await world.post()
    await world.go_on(6)

    answer = await world.api.get(f"/v1/tasks/{task_id}", headers={"prefer": f"wait={number}"})

    assert answer.headers["preference-applied"] == f"wait={heeded}"
