"""The end user and the metadata of a task: recorded, shown everywhere, passed on if the model takes it, and found."""

import json
from typing import Any

import pytest

from tests.receivers import receiver, stored_with_webhook
from tests.web.documents import nothing_recorded, problem
from tests.world import World

TAGS: dict[str, Any] = {"user": "customer-17", "metadata": {"order": "2026-0042", "shop": "Köln: Süd"}}


async def ids_of(world: World, **query: Any) -> list[str]:
    answer = await world.api.get("/v1/tasks", params=query)
    assert answer.status_code == 200, answer.text
    assert answer.json()["next_cursor"] is None
    return [task["id"] for task in answer.json()["tasks"]]


async def test_tags_are_shown_in_the_task_and_its_events(each_world: World) -> None:
    posted = await each_world.api.post("/v1/tasks", json={"prompt": "a red fox", **TAGS})
    await each_world.go_on(6)

    task_id = posted.json()["id"]
    page = (await each_world.api.get("/v1/events", params={"after": "start"})).json()
    stream = await each_world.api.get(f"/v1/tasks/{task_id}/events", headers={"accept": "text/event-stream"})

    for shown in (posted.json(), await each_world.task(task_id), *page["events"]):
        assert {name: shown[name] for name in TAGS} == TAGS
    frames = [json.loads(line[6:]) for line in stream.text.splitlines() if line.startswith("data: ")]
    assert [frame["user"] for frame in frames if "kind" in frame] == ["customer-17"] * 5


async def test_a_task_without_tags_has_none(world: World) -> None:
    task = await world.task(await world.post(user=None, metadata={}))

    assert (task["user"], task["metadata"]) == (None, {})


@pytest.mark.parametrize(("model", "takes_it"), [("flux-kontext-pro", True), ("flux-3-image", False)])
async def test_the_user_is_passed_on_to_a_model_that_takes_it(world: World, model: str, takes_it: bool) -> None:
    task = await world.task(await world.post(model=model, **TAGS))

    assert task["params"]["user"] == ("customer-17" if takes_it else None)
    assert "metadata" not in task["params"]
    assert (task["user"], task["metadata"]) == (TAGS["user"], TAGS["metadata"])


async def test_a_form_has_the_metadata_as_one_json_field(world: World) -> None:
    parts = {"prompt": "a red fox", "user": "customer-17", "metadata": json.dumps(TAGS["metadata"])}

    answer = await world.api.post("/v1/tasks", files={name: (None, text) for name, text in parts.items()})

    assert answer.status_code == 202, answer.text
    assert {name: answer.json()[name] for name in TAGS} == TAGS


async def test_the_user_of_the_provider_compatible_api_is_recorded_too(world: World) -> None:
    answer = await world.api.post("/v1/flux-kontext-pro", json={"prompt": "a red fox", "user": "customer-17"})

    assert (await world.task(answer.json()["id"]))["user"] == "customer-17"


@pytest.mark.parametrize(
    ("tags", "field", "reason"),
    [
        ({"user": ""}, "user", "at least 1 character"),
        ({"user": "x" * 257}, "user", "at most 256 characters"),
        ({"user": 7}, "user", "valid string"),
        ({"user": "a\0b"}, "user", "without NUL"),
        ({"metadata": []}, "metadata", "an object of texts"),
        ({"metadata": {"a": 1}}, "metadata", "an object of texts"),
        ({"metadata": {"": "x"}}, "metadata", "1 to 64 characters"),
        ({"metadata": {"k" * 65: "x"}}, "metadata", "1 to 64 characters"),
        ({"metadata": {"k": "x" * 513}}, "metadata", "at most 512 characters"),
        ({"metadata": {str(number): "x" for number in range(17)}}, "metadata", "at most 16 pairs"),
        ({"metadata": {"k\0": "x"}}, "metadata", "without NUL"),
        ({"metadata": "{"}, "metadata", "an object of texts as JSON"),
    ],
)
async def test_wrong_tags_are_refused_with_their_field(
    world: World, tags: dict[str, Any], field: str, reason: str
) -> None:
    answer = await world.api.post("/v1/tasks", json={"prompt": "a red fox", **tags})

    found = problem(answer, 422, "invalid_request")
    assert reason in found["fields"][field]
    assert await nothing_recorded(world)


async def test_a_webhook_in_the_form_of_an_event_has_the_tags(world: World) -> None:
    application = receiver(world, 200)
    await stored_with_webhook(world, webhook_form="event", **TAGS)

    message = json.loads(application.bodies[0])
    assert {name: message["data"]["task"][name] for name in TAGS} == TAGS


async def test_tasks_are_found_by_all_filters_together(each_world: World) -> None:
    wanted = await each_world.post(prompt="Ein roter FUCHS am Straßenrand", **TAGS)
    each_world.clock.advance(60)
    other = await each_world.post(prompt="ein grüner Fuchs", user="customer-17", metadata={"order": "7"})
    await each_world.api.post(f"/v1/tasks/{other}/cancel")
    await each_world.post(prompt="no tags")

    assert await ids_of(each_world, user="customer-17") == [other, wanted]
    assert await ids_of(each_world, user="customer-1") == []
    assert await ids_of(each_world, metadata="order:2026-0042") == [wanted]
    assert await ids_of(each_world, metadata=["order:2026-0042", "shop:Köln: Süd"]) == [wanted]
    assert await ids_of(each_world, metadata=["order:2026-0042", "shop:Köln"]) == []
    assert await ids_of(each_world, prompt_contains="fuchs") == [other, wanted]
    assert await ids_of(each_world, prompt_contains="STRASSENRAND") == [wanted]
    together = {"user": "customer-17", "prompt_contains": "fuchs", "model": "flux-kontext-pro"}
    assert await ids_of(each_world, **together, status=["queued", "cancelled"]) == [other, wanted]
    assert await ids_of(each_world, **together, status=["cancelled", "failed"]) == [other]
    assert await ids_of(each_world, **together, created_before="2026-01-01T12:00:30Z") == [wanted]
    assert await ids_of(each_world, **together, created_after="2026-01-01T12:00:30Z") == [other]


async def test_wrong_filters_are_refused(world: World) -> None:
    for query in ("metadata=order", "user=", "prompt_contains=", "users=x", "user=a&user=b"):
        problem(await world.api.get(f"/v1/tasks?{query}"), 422, "invalid_request")


async def test_an_erased_task_leaves_no_tag(each_world: World) -> None:
    task_id = await each_world.post(**TAGS)
    await each_world.api.post(f"/v1/tasks/{task_id}/cancel")

    await each_world.api.delete(f"/v1/tasks/{task_id}")

    events = (await each_world.api.get("/v1/events", params={"after": "start"})).json()["events"]
    assert {(event["user"], *event["metadata"]) for event in events} == {(None,)}
    assert await ids_of(each_world, user="customer-17") == []
