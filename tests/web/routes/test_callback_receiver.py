"""The route for callbacks: the answer to each callback, and what it stores."""

import json
import sqlite3
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.security.sign import bfl_signature
from app.twin import Rules
from tests.web.documents import problem
from tests.world import TWIN, World

MB = 1024 * 1024
FORGED = {"error": {"message": "Invalid signature", "type": "401"}}


@dataclass
class Called:
    """A submitted task without a callback so far, and what a callback needs."""

    world: World
    task_id: str
    path: str
    secret: str
    provider_id: str

    def body(self, status: str = "Error", **more: Any) -> bytes:
        return json.dumps({"id": self.provider_id, "status": status, **more}).encode()

    async def call(self, content: Any, *headers: tuple[bytes, bytes], path: str | None = None) -> httpx.Response:
        sent = [(b"content-type", b"application/json"), *headers]
        return await self.world.outsider.post(path or self.path, content=content, headers=sent)

    async def call_signed(self, body: bytes) -> httpx.Response:
        return await self.call(body, self.signature(body))

    def signature(self, body: bytes) -> tuple[bytes, bytes]:
        return b"x-bfl-signature", bfl_signature(self.secret, body).encode()

    async def status(self) -> str:
        return str((await self.world.task(self.task_id))["status"])

    async def verdicts(self) -> list[tuple[str, str, int]]:
        """Return verdict, effect and copies of each stored callback."""
        entries = await self.world.timeline(self.task_id, "evidence")
        return [(e["verdict"], e["effect"], e["copies"]) for e in entries if e["witness"] == "callback"]


async def submitted(world: World) -> Called:
    world.twin.rules = Rules(ready_after=timedelta(hours=1))
    task_id = await world.post()
    await world.work()
    attempt = (await world.timeline(task_id, "submission"))[0]
    proof = world.use.keys.callback_proof(attempt["submission_id"], world.use.keys.newest)
    path = f"/callbacks/{attempt['submission_id']}/{proof.token}"
    return Called(world, task_id, path, proof.secret, attempt["provider_id"])


@pytest.fixture
async def called(world: World) -> Called:
    return await submitted(world)


async def test_a_signed_callback_is_answered_when_its_effect_is_durable(each_world: World) -> None:
    called = await submitted(each_world)
    body = called.body("Ready", result={"sample": f"{TWIN}/delivery/x.png?se=2026-01-01T12:10:00Z"})

    answer = await called.call_signed(body)

    assert (answer.status_code, answer.json()) == (200, {"status": "success"})
    assert await called.status() == "ready"
    assert await called.verdicts() == [("signed", "moved", 1)]


async def test_the_same_callback_again_is_counted_and_does_nothing(each_world: World) -> None:
    called = await submitted(each_world)

    answers = [await called.call_signed(called.body()) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert await called.verdicts() == [("signed", "moved", 3)]
    assert await called.status() == "failed"


async def test_the_plain_secret_proves_a_callback(called: Called) -> None:
    answer = await called.call(called.body(), (b"X-Webhook-Secret", called.secret.encode()))

    assert answer.status_code == 200
    assert await called.verdicts() == [("shared_secret", "moved", 1)]


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"sha256=", id="empty hex"),
        pytest.param(b"sha256=" + b"0" * 64, id="wrong hex"),
        pytest.param(b"sha256=" + b"zz" * 32, id="no hex"),
        pytest.param(b"sha256=" + b"0" * 63, id="odd hex"),
        pytest.param(b"sha1=" + b"0" * 40, id="another digest"),
        pytest.param(b"\xff\xfe", id="no text"),
        pytest.param(b"sha256=\xc3\xa9" + b"0" * 62, id="no ASCII"),
        pytest.param(b"0" * 60_000, id="long"),
    ],
)
async def test_a_wrong_signature_gets_the_providers_own_envelope_and_moves_nothing(
    called: Called, value: bytes
) -> None:
    # The valid plain secret beside it does not help.
    secret = (b"x-webhook-secret", called.secret.encode())
    answer = await called.call(called.body(), (b"x-bfl-signature", value), secret)

    assert (answer.status_code, answer.json()) == (401, FORGED)
    assert answer.headers["content-type"] == "application/json"
    assert await called.verdicts() == [("forged", "rejected", 1)]
    assert await called.status() == "submitted"


async def test_two_signatures_are_forged_even_when_both_are_right(called: Called) -> None:
    signature = called.signature(called.body())

    answer = await called.call(called.body(), signature, signature)

    assert (answer.status_code, answer.json()) == (401, FORGED)
    assert await called.status() == "submitted"


async def test_a_signature_of_other_bytes_is_forged(called: Called) -> None:
    answer = await called.call(called.body() + b" ", called.signature(called.body()))

    assert answer.status_code == 401


async def test_an_unproven_callback_is_stored_and_triggers_a_poll(called: Called) -> None:
    answer = await called.call(called.body())

    assert answer.status_code == 200
    assert await called.verdicts() == [("unproven", "hinted", 1)]
    await called.world.work()
    polls = [entry for entry in await called.world.timeline(called.task_id, "evidence") if entry["witness"] == "poll"]
    assert [poll["said"] for poll in polls] == ["pending"]
    assert await called.status() == "submitted"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"not json", id="no JSON"),
        pytest.param(b"[1, 2]", id="a list"),
        pytest.param(b"\xff\xfe\x00", id="no text"),
        pytest.param(b'{"status":' * 50_000, id="deep JSON"),
        pytest.param(b"[" * (MB - 1), id="very deep JSON"),
        pytest.param(b'{"id": "a\\u0000b\\ud800", "status": "Error"}', id="NUL and a lone surrogate"),
        pytest.param(b'{"status": "Ready", "cost": 1e999, "result": {"seed": ' + b"9" * 4000 + b"}}", id="numbers"),
        pytest.param(b'{"id": {"a": 1}, "status": ["Ready"], "result": 5}', id="wrong types"),
    ],
)
async def test_any_signed_body_is_stored_and_answered(called: Called, body: bytes) -> None:
    answer = await called.call_signed(body)

    assert (answer.status_code, answer.json()) == (200, {"status": "success"})
    assert [verdict for verdict, _, _ in await called.verdicts()] == ["signed"]


async def test_both_databases_store_any_bytes(each_world: World) -> None:
    called = await submitted(each_world)
    odd = b'{"id": "a\\u0000b\\ud800", "status": "Error", "details": {"error": "\\u0000"}}'
    bodies = [odd, b"\x00\xff", b"[" * 9000]

    answers = [await called.call(body, (b"x-odd", b"a\xffb")) for body in bodies]
    answers += [await called.call_signed(body) for body in bodies]

    assert [answer.status_code for answer in answers] == [200] * 6


async def in_pieces(size: int) -> AsyncGenerator[bytes]:
    for _ in range(size // 65_536):
        yield bytes(65_536)


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "chunked"])
async def test_five_megabytes_are_refused_and_leave_nothing(called: Called, announced: bool) -> None:
    length = [(b"content-length", str(5 * MB).encode())] if announced else []

    answer = await called.call(in_pieces(5 * MB), *length)

    problem(answer, 413, "too_large")
    assert await called.verdicts() == []


async def test_one_megabyte_is_taken_and_one_byte_more_is_not(called: Called) -> None:
    assert (await called.call_signed(b" " * MB)).status_code == 200
    problem(await called.call_signed(b" " * (MB + 1)), 413)


async def test_an_unknown_submission_and_a_wrong_token_get_the_same_answer(called: Called) -> None:
    start, _, token = called.path.rpartition("/")
    wrong = [
        f"{start}/{token[:-1]}_",
        f"{start}/{token[::-1]}",
        f"{start}/%ff%00",
        f"/callbacks/sub_{'0' * 37}/{token}",
        f"/callbacks/%00/{token}",
    ]

    answers = [await called.call(called.body(), path=path) for path in wrong]

    assert len({answer.text for answer in answers}) == 1
    for answer in answers:
        problem(answer, 404, "not_found")
    assert await called.verdicts() == []


async def test_a_valid_token_of_a_deleted_attempt_gets_the_answer_of_an_unknown_one(called: Called) -> None:
    gone = f"sub_{'0' * 37}"
    proof = called.world.use.keys.callback_proof(gone, called.world.use.keys.newest)
    answer = await called.call(b"{}", path=f"/callbacks/{gone}/{proof.token}")

    unknown = await called.call(b"{}", path=f"/callbacks/{gone}/x")
    assert answer.json() == unknown.json()
    problem(answer, 404)


@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unproven"])
async def test_while_the_database_is_unavailable_a_callback_gets_503(
    called: Called, tmp_path: Path, signed: bool
) -> None:
    headers = [called.signature(called.body())] if signed else []
    with sqlite3.connect(tmp_path / "fluxhook.db") as connection:
        connection.execute("ALTER TABLE evidence RENAME TO away")
    away = await called.call(called.body(), *headers)
    with connection:
        connection.execute("ALTER TABLE away RENAME TO evidence")
    connection.close()

    again = await called.call(called.body(), *headers)

    problem(away, 503, "unavailable")
    assert int(away.headers["retry-after"]) > 0
    assert again.status_code == 200
    assert [copies for _, _, copies in await called.verdicts()] == [1]


async def test_many_unproven_callbacks_do_not_fill_the_database(called: Called) -> None:
    answers = [await called.call(b'{"n": %d}' % number) for number in range(15)]
    forged = [await called.call(b'{"n": %d}' % number, (b"x-bfl-signature", b"x")) for number in range(15)]

    assert {answer.status_code for answer in answers} == {200}
    assert {answer.status_code for answer in forged} == {401}
    kept = [verdict for verdict, _, _ in await called.verdicts()]
    assert (kept.count("unproven"), kept.count("forged")) == (10, 10)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
async def test_only_post_is_allowed(called: Called, method: str) -> None:
    answer = await called.world.outsider.request(method, called.path)

    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
