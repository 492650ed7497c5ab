"""Headers of answers: no cache keeps what a key has opened, and no browser guesses another type."""

import pytest

from tests.calling import caller_of, small
from tests.world import World

NO_STORE = ("nosniff", "no-store")


def safety(answer: object) -> tuple[str | None, str | None]:
    headers = getattr(answer, "headers", {})
    return headers.get("x-content-type-options"), headers.get("cache-control")


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/tasks", "/v1/keys", "/v1/audit", "/v1/usage", "/metrics", "/healthz", "/readyz", "/openapi.json"),
        *("/v1/tasks/none", "/nothing/here", "/v1/tasks?status=none", "/openai/v1/models", "/openai/v1/none"),
    ],
)
async def test_answers_of_the_api_are_not_stored(world: World, path: str) -> None:
    assert safety(await world.api.get(path)) == NO_STORE
    assert safety(await world.outsider.get(path)) == NO_STORE


async def test_answers_to_posts_and_callbacks_are_not_stored(world: World) -> None:
    task_id = await world.post()
    await world.work()
    caller = await caller_of(world, task_id)

    assert safety(await world.api.post("/v1/tasks", json={"prompt": 5})) == NO_STORE
    assert safety(await world.api.post("/v1/flux-kontext-pro", json={"prompt": "a fox"})) == NO_STORE
    assert safety(await caller.call({"status": "?"})) == NO_STORE
    assert safety(await caller.call({"status": "?"}, {"x-webhook-secret": "wrong"})) == NO_STORE


async def test_an_image_is_stored_by_its_reader_alone_who_asks_again_each_time(world: World) -> None:
    small(world)
    task_id = await world.post()
    await world.go_on(6)
    polled = (await world.api.get("/v1/get_result", params={"id": task_id})).json()
    for path in (f"/v1/tasks/{task_id}/image", polled["result"]["sample"], f"/tasks/{task_id}/thumbnail"):
        first = await world.api.get(path)
        again = await world.api.get(path, headers={"if-none-match": first.headers["etag"]})

        assert (first.status_code, again.status_code, again.content) == (200, 304, b"")
        assert safety(first) == safety(again) == ("nosniff", "private, no-cache")
    await world.api.delete(f"/v1/tasks/{task_id}")

    assert (await world.api.get(f"/v1/tasks/{task_id}/image", headers={"if-none-match": "*"})).status_code == 404


async def test_the_style_sheet_may_be_stored(world: World) -> None:
    assert safety(await world.outsider.get("/static/fluxhook.css")) == ("nosniff", None)
