"""`Idempotency-Key` over HTTP: one request, however often it is sent."""

import asyncio
from contextlib import nullcontext
from dataclasses import replace
from typing import IO, Any

import httpx
import pytest

from app.db.tables import api_keys, idempotency_keys
from app.db.tables.api_keys import NewApiKey
from app.main import create_app
from app.store import FolderStore
from app.web.auth import digest_of
from tests.calling import small
from tests.faults import Trip, lost_commit_answer
from tests.pictures import in_base64, picture
from tests.web.documents import nothing_recorded, problem, rows
from tests.world import ADMIN_KEY, GATEWAY, World

FOX = {"prompt": "a red fox"}


async def post(world: World, key: str = "k", json: dict[str, Any] = FOX, **headers: str) -> httpx.Response:
    return await world.api.post("/v1/tasks", json=json, headers={"idempotency-key": key, **headers})


async def test_fifty_posts_at_once_with_one_key_make_one_task_and_one_call(each_world: World) -> None:
    small(each_world)
    answers = await asyncio.gather(*(post(each_world) for _ in range(50)))
    taken = [answer for answer in answers if answer.status_code == 202]
    await each_world.work()

    assert {answer.status_code for answer in answers} <= {202, 409}
    assert len({answer.json()["id"] for answer in taken}) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in taken) == 1
    assert (await rows(each_world))["tasks"] == 1
    assert (each_world.ledger()["accepted"], each_world.ledger()["charged"]) == (1, 4)


async def test_a_request_whose_claim_got_no_answer_does_not_make_the_next_one_wait(each_world: World) -> None:
    with lost_commit_answer(each_world.use.db, Trip(2)):  # the first transaction reads the API key
        first = await post(each_world)
    again = await post(each_world)

    assert (first.status_code, again.status_code) == (503, 202)


async def test_a_repeated_request_gets_the_first_answer_even_if_the_task_has_changed(each_world: World) -> None:
    first = await post(each_world)
    await each_world.work()
    await each_world.go_on(5)
    again = await post(each_world)

    assert (again.status_code, again.json()) == (202, first.json())
    assert again.headers["location"] == first.headers["location"]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert each_world.ledger()["accepted"] == 1


async def test_a_replay_that_waits_gets_the_task_as_it_is_by_then(each_world: World) -> None:
    first = await post(each_world)
    await each_world.work()
    await each_world.go_on(5)
    again = await post(each_world, prefer="wait=5")

    assert (again.status_code, again.json()["id"], again.json()["status"]) == (200, first.json()["id"], "stored")
    assert again.headers["idempotency-replayed"] == "true"


async def test_another_body_under_the_same_key_is_refused_and_makes_nothing(each_world: World) -> None:
    await post(each_world)
    answer = await post(each_world, json={"prompt": "a blue fox"})

    problem(answer, 422, "idempotency_key_reused")
    assert (await rows(each_world))["tasks"] == 1


async def test_a_repeated_request_is_refused_while_the_first_has_no_answer(each_world: World) -> None:
    """The state after a crash between the claim and the answer."""
    first = await post(each_world)
    forget = idempotency_keys.idempotency.update().values(answer=None)
    await each_world.use.db.write(lambda connection: connection.execute(forget).close())
    problem(await post(each_world), 409, "request_in_flight")
    each_world.clock.advance(6 * 60 + 1)
    after = await post(each_world)

    assert after.status_code == 202
    assert after.json()["id"] != first.json()["id"]


async def test_a_key_is_forgotten_after_a_day(each_world: World) -> None:
    first = await post(each_world)
    each_world.clock.advance(24 * 3600)
    same = await post(each_world)
    each_world.clock.advance(1)
    other = await post(each_world)

    assert same.json()["id"] == first.json()["id"] != other.json()["id"]


async def test_a_key_is_scoped_to_the_api_key(each_world: World) -> None:
    other = NewApiKey("key_other", "other", digest_of("another-key-for-tests-only"), ["*"], each_world.clock())
    await each_world.use.db.write(lambda connection: api_keys.put(connection, other))
    mine = await post(each_world)
    theirs = await post(each_world, authorization="Bearer another-key-for-tests-only", json={"prompt": "a blue fox"})

    assert theirs.status_code == 202
    assert theirs.json()["id"] != mine.json()["id"]


async def test_a_key_in_quotes_is_the_same_key(world: World) -> None:
    first = await post(world, '"8e03978e-40d5"')

    assert (await post(world, "8e03978e-40d5")).json() == first.json()


@pytest.mark.parametrize("key", ["", '""', "k" * 256, "k" * 300])
async def test_an_invalid_idempotency_key_is_refused(world: World, key: str) -> None:
    problem(await post(world, key), 422)
    assert await nothing_recorded(world)


async def test_a_refused_request_is_forgotten_and_may_be_corrected(each_world: World) -> None:
    wrong = {"prompt": "a red fox", "input_image": "no base64"}
    problem(await post(each_world, json=wrong), 422, "invalid_request")
    problem(await post(each_world, json=wrong), 422, "invalid_request")
    mended = await post(each_world)

    assert mended.status_code == 202
    assert (await rows(each_world))["tasks"] == 1


class BrokenStore(FolderStore):
    """A store that raises an unexpected error."""

    async def put(self, key: str, source: IO[bytes]) -> None:
        raise RuntimeError(key, source)


@pytest.mark.parametrize("prompt", ["a red fox", "a blue fox"], ids=["as it was", "changed"])
async def test_a_request_that_failed_unexpectedly_may_be_sent_again(each_world: World, prompt: str) -> None:
    body = {"prompt": "a red fox", "input_image": in_base64(picture())}
    use = replace(each_world.use, store=BrokenStore(each_world.use.scratch / "images"))
    app = create_app(nullcontext(use), with_worker=False)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    headers = {"x-key": ADMIN_KEY, "idempotency-key": "k"}
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url=GATEWAY, headers=headers) as client,
    ):
        problem(await client.post("/v1/tasks", json=body), 500, "internal_error")
    again = await post(each_world, json={**body, "prompt": prompt})

    assert again.status_code == 202
    assert "idempotency-replayed" not in again.headers
    assert (await rows(each_world))["tasks"] == 1


async def upload(world: World, boundary: str, image: bytes, name: str = "a.png") -> httpx.Response:
    parts = [
        f'--{boundary}\r\ncontent-disposition: form-data; name="prompt"\r\n\r\na red fox\r\n'.encode(),
        f'--{boundary}\r\ncontent-disposition: form-data; name="input_image"; filename="{name}"\r\n\r\n'.encode(),
        image + f"\r\n--{boundary}--\r\n".encode(),
    ]
    headers = {"content-type": f"multipart/form-data; boundary={boundary}", "idempotency-key": "k"}
    return await world.api.post("/v1/tasks", content=b"".join(parts), headers=headers)


async def test_an_upload_is_the_same_whatever_its_boundary_and_another_with_another_file(each_world: World) -> None:
    first = await upload(each_world, "one", picture())
    again = await upload(each_world, "another", picture(), "renamed.png")
    other = await upload(each_world, "one", picture(321))

    assert first.status_code == 202
    assert again.json() == first.json()
    problem(other, 422, "idempotency_key_reused")


async def test_without_a_key_every_post_is_a_task_of_its_own(world: World) -> None:
    assert len({await world.post() for _ in range(3)}) == 3
