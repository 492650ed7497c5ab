"""`Idempotency-Key` below HTTP: claims, replays, refusals and their times."""

import hashlib
import json
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import pytest
from sqlalchemy.util import await_only

from app.db import Connection
from app.db.tables.idempotency_keys import StoredAnswer
from app.errors import InvalidRequest, KeyReused, RequestInFlight
from app.transitions.idempotency import ANSWER_RETENTION, Claim, claim, digest_of, release
from tests.databases import listening_for
from tests.requests import task_params
from tests.world import World, open_world

FOX = task_params()


async def claimed(world: World, key: str = "k", digest: str = "d", images: int = 0) -> Claim:
    held = await claim(world.use, "key_1", key, digest, images)
    assert isinstance(held, Claim)
    return held


async def answered(world: World, key: str = "k", digest: str = "d") -> Claim:
    held = await claimed(world, key, digest)
    await world.use.db.write(lambda connection: held.answer(connection, StoredAnswer("task_1")))
    return held


async def test_the_first_request_answers_and_repeated_ones_get_its_answer(each_world: World) -> None:
    await answered(each_world)

    assert await claim(each_world.use, "key_1", "k", "d") == StoredAnswer("task_1")


async def test_another_body_is_refused_before_and_after_the_answer(each_world: World) -> None:
    held = await claimed(each_world)
    with pytest.raises(KeyReused):
        await claim(each_world.use, "key_1", "k", "other")
    await each_world.use.db.write(lambda connection: held.answer(connection, StoredAnswer("task_1")))
    with pytest.raises(KeyReused):
        await claim(each_world.use, "key_1", "k", "other")


async def test_repeated_requests_are_refused_while_the_first_is_in_progress(each_world: World) -> None:
    await claimed(each_world)
    with pytest.raises(RequestInFlight):
        await claim(each_world.use, "key_1", "k", "d")


async def test_a_key_is_scoped_to_one_api_key(each_world: World) -> None:
    await answered(each_world)

    assert isinstance(await claim(each_world.use, "key_2", "k", "other"), Claim)


async def test_a_released_key_can_be_used_again_even_with_another_body(each_world: World) -> None:
    await release(each_world.use, await claimed(each_world))

    assert isinstance(await claim(each_world.use, "key_1", "k", "corrected"), Claim)


async def test_an_answered_key_is_not_released(each_world: World) -> None:
    """The commit succeeded, and its confirmation was lost."""
    await release(each_world.use, await answered(each_world))

    assert await claim(each_world.use, "key_1", "k", "d") == StoredAnswer("task_1")


async def test_an_answer_is_stored_for_a_day(each_world: World) -> None:
    await answered(each_world)
    each_world.clock.advance(ANSWER_RETENTION.total_seconds())
    last = await claim(each_world.use, "key_1", "k", "d")
    each_world.clock.advance(1)
    after = await claim(each_world.use, "key_1", "k", "other")

    assert last == StoredAnswer("task_1")
    assert isinstance(after, Claim)


@pytest.mark.parametrize(("images", "longest_s"), [(0, 30), (4, 350)])
async def test_an_unanswered_key_is_taken_over_after_its_timeout(world: World, images: int, longest_s: int) -> None:
    await claimed(world, images=images)
    world.clock.advance(longest_s)
    with pytest.raises(RequestInFlight):
        await claimed(world, images=images)
    world.clock.advance(1)

    await claimed(world, images=images)


async def test_a_request_whose_key_was_taken_over_cannot_answer(each_world: World) -> None:
    dead = await claimed(each_world)
    each_world.clock.advance(31)
    heir = await claimed(each_world)
    with pytest.raises(RequestInFlight):
        await each_world.use.db.write(lambda connection: dead.answer(connection, StoredAnswer("task_dead")))
    await release(each_world.use, dead)
    await each_world.use.db.write(lambda connection: heir.answer(connection, StoredAnswer("task_heir")))

    assert await claim(each_world.use, "key_1", "k", "d") == StoredAnswer("task_heir")


async def test_an_answer_just_before_a_takeover_is_kept(tmp_path: Path, postgres_url: str) -> None:
    async with open_world(tmp_path, postgres_url) as world:
        slow = await claimed(world)
        world.clock.advance(31)

        def answer_first(_connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
            if statement.startswith("DELETE FROM idempotency"):
                await_only(world.use.db.write(lambda connection: slow.answer(connection, StoredAnswer("task_1"))))

        with listening_for(world.use.db, "before_cursor_execute", answer_first):
            found = await claim(world.use, "key_1", "k", "d")

        assert found == StoredAnswer("task_1")


@pytest.mark.parametrize("header", ['"k"', " k ", ' "k" '])
async def test_quotes_and_spaces_around_a_key_are_ignored(world: World, header: str) -> None:
    await answered(world)

    assert await claim(world.use, "key_1", header, "d") == StoredAnswer("task_1")


@pytest.mark.parametrize(
    "header", ["", '""', " ", "k" * 256, "k\x00", "k\x7f", "schl\u00fcssel", '"' + "k" * 256 + '"']
)
async def test_an_invalid_key_is_refused_and_not_truncated(world: World, header: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await claim(world.use, "key_1", header, "d")

    assert list(refused.value.fields) == ["Idempotency-Key"]


async def test_a_key_of_the_maximum_length_is_accepted(each_world: World) -> None:
    await answered(each_world, "k" * 255)

    assert await claim(each_world.use, "key_1", "k" * 255, "d") == StoredAnswer("task_1")


def files(**given: bytes) -> dict[str, IO[bytes]]:
    return {field: BytesIO(data) for field, data in given.items()}


def test_the_digest_depends_on_all_parameters_and_files() -> None:
    digests = [
        digest_of(FOX, {}),
        digest_of(task_params(seed=1), {}),
        digest_of(task_params(priority=1), {}),
        digest_of(FOX, files(input_image=b"a")),
        digest_of(FOX, files(input_image=b"b")),
        digest_of(FOX, files(input_image=b"a", input_image_2=b"b")),
        digest_of(FOX, files(input_image=b"b", input_image_2=b"a")),
        digest_of(task_params(input_image="YQ=="), {}),
        digest_of(task_params(input_image="data:image/png;base64,YQ=="), {}),
    ]

    assert len(set(digests)) == len(digests)


def test_the_digest_ignores_field_order_and_explicit_defaults() -> None:
    spelled_out = task_params(seed=None, output_format="png", priority=0)
    one, other = files(input_image=b"a", input_image_2=b"b"), files(input_image_2=b"b", input_image=b"a")

    assert digest_of(FOX, {}) == digest_of(spelled_out, {})
    assert digest_of(FOX, one) == digest_of(FOX, other)


def test_the_digest_of_files_does_not_depend_on_their_position() -> None:
    given = files(input_image=b"abc")
    first = digest_of(FOX, given)

    assert digest_of(FOX, given) == first


def test_the_digest_depends_on_the_webhook_but_not_on_its_secret() -> None:
    def digest(**webhook: str) -> str:
        return digest_of(task_params(**webhook), {})

    plain, told = digest(), digest(webhook_url="https://a.example/")
    one = digest(webhook_url="https://a.example/", webhook_secret="one")
    other = digest(webhook_url="https://a.example/", webhook_secret="other")

    assert len({plain, told, one}) == 3
    assert one == other


def test_a_request_without_a_webhook_has_the_digest_of_its_other_fields() -> None:
    before = {
        "model": "flux-kontext-pro",
        "prompt": "a red fox",
        "seed": None,
        "aspect_ratio": None,
        "output_format": "png",
        "prompt_upsampling": False,
        "safety_tolerance": 2,
        "input_image": None,
        "input_image_2": None,
        "input_image_3": None,
        "input_image_4": None,
        "priority": 0,
        "deadline_at": None,
    }

    assert digest_of(FOX, {}) == hashlib.sha256(json.dumps([before, {}], sort_keys=True).encode()).hexdigest()
