"""Both paths of a callback, the fast path and the application, give the same answers, also under load."""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Coroutine, Iterator, MutableMapping
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.db.engine.batches import BOUNDS, Bounds
from app.telemetry import metrics
from tests.databases import Gate
from tests.sockets import until
from tests.web.documents import problem
from tests.web.routes.test_callback_receiver import FORGED, MB, Called, submitted
from tests.world import World, open_world

WRONG = (b"x-bfl-signature", b"sha256=" + b"0" * 64)


@pytest.fixture
async def world(request: pytest.FixtureRequest, tmp_path: Path, sqlite_url: str) -> AsyncGenerator[World]:
    """The parameter is the number of writes that may wait."""
    async with open_world(tmp_path, sqlite_url, bounds=getattr(request, "param", BOUNDS)) as opened:
        yield opened


@pytest.fixture
async def called(world: World) -> Called:
    return await submitted(world)


@pytest.fixture(params=["short", "application"])
async def way(request: pytest.FixtureRequest, world: World, address: str) -> AsyncGenerator[str]:
    """The path of the outsider's requests: over a socket of the server, or directly to the application."""
    if request.param == "short":
        async with httpx.AsyncClient(base_url=address, timeout=60) as outsider:
            world.outsider = outsider
            yield "short"
    else:
        yield "application"


def counted(name: str) -> float:
    return metrics.REGISTRY.get_sample_value(f"fluxhook_{name}_total") or 0.0


async def post(called: Called, *headers: tuple[bytes, bytes], path: str | None = None) -> httpx.Response:
    return await called.call(called.body(), *headers, path=path)


# Many callbacks


@pytest.mark.usefixtures("way")
async def test_ten_of_many_forged_callbacks_are_stored_and_all_are_refused(called: Called) -> None:
    before = counted("forged_callbacks_dropped")
    answers = [await called.call(b'{"n": %d}' % number, WRONG) for number in range(60)]

    assert {answer.status_code for answer in answers} == {401}
    assert counted("forged_callbacks_dropped") - before == 50
    assert await called.verdicts() == [("forged", "rejected", 1)] * 10
    assert (await called.call_signed(called.body())).status_code == 200


@pytest.mark.usefixtures("way")
async def test_many_callbacks_at_unknown_addresses_are_refused(called: Called) -> None:
    start = called.path.rpartition("/")[0]
    for number in range(20):
        problem(await post(called, WRONG, path=f"{start}/guess{number}"), 404)
        problem(await post(called, path=f"/callbacks/sub_{number:037}/guess"), 404)

    assert await called.verdicts() == []


@pytest.mark.usefixtures("way")
async def test_a_forged_callback_is_refused_while_the_database_is_unavailable(called: Called, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "fluxhook.db") as connection:
        connection.execute("ALTER TABLE evidence RENAME TO away")
    answer = await post(called, WRONG)
    with connection:
        connection.execute("ALTER TABLE away RENAME TO evidence")
    connection.close()

    assert (answer.status_code, answer.json()) == (401, FORGED)
    assert await called.verdicts() == []


# A batch


@pytest.mark.usefixtures("way")
async def test_a_callback_that_cannot_be_stored_does_not_affect_the_rest_of_its_batch(
    world: World, tmp_path: Path
) -> None:
    calls = [await submitted(world) for _ in range(5)]
    poisoned = calls[2].path.split("/")[2]
    with sqlite3.connect(tmp_path / "fluxhook.db") as connection:
        connection.execute(
            f"CREATE TRIGGER poison BEFORE INSERT ON evidence WHEN NEW.submission_id = '{poisoned}' "
            "BEGIN SELECT RAISE(ABORT, 'poisoned'); END"
        )
    gate = Gate()
    holding = asyncio.create_task(world.use.db.write(gate.hold))
    await gate.reached.wait()
    answering = [asyncio.create_task(each.call_signed(each.body())) for each in calls]
    answered, _ = await asyncio.wait(answering, timeout=0.1)  # so that most of them are in one batch
    gate.open()
    answers = await asyncio.gather(*answering)
    await holding
    with connection:
        connection.execute("DROP TRIGGER poison")
    connection.close()
    again = await calls[2].call_signed(calls[2].body())

    assert answered == set()
    assert [answer.status_code for answer in answers] == [200, 200, 503, 200, 200]
    assert int(problem_of(answers[2]).headers["retry-after"]) > 0
    assert again.status_code == 200
    assert [await each.verdicts() for each in calls] == [[("signed", "moved", 1)]] * 5


def problem_of(answer: httpx.Response) -> httpx.Response:
    problem(answer, 503, "unavailable")
    return answer


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("world", [Bounds(items=1)], indirect=True, ids=["one may wait"])
async def test_callbacks_beyond_the_limit_get_503_so_that_the_provider_retries(called: Called) -> None:
    before, gate = counted("callbacks_shed"), Gate()
    holding = asyncio.create_task(called.world.use.db.write(gate.hold))
    await gate.reached.wait()
    calling = [
        asyncio.create_task(call) for _ in range(2) for call in (called.call_signed(called.body()), post(called))
    ]
    turned_away = [await answer for answer in islice(asyncio.as_completed(calling), 3)]
    refused = await post(called, WRONG)
    gate.open()
    await holding
    statuses = sorted([(await answer).status_code for answer in calling])
    again = await called.call_signed(called.body())

    for answer in turned_away:
        problem(answer, 503)
        assert int(answer.headers["retry-after"]) > 0
    assert statuses == [200, 503, 503, 503]
    assert refused.status_code == 401
    assert counted("callbacks_shed") - before == 3
    assert again.status_code == 200
    assert sum(copies for _, _, copies in await called.verdicts()) == 2


async def test_forged_callbacks_are_answered_after_the_genuine_ones_that_wait(
    called: Called, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.callback.FORGED_WAIT_S", 600)
    answered: list[int] = []

    async def note(call: Coroutine[Any, Any, httpx.Response]) -> None:
        answered.append((await call).status_code)

    async with httpx.AsyncClient(base_url=address, timeout=60) as called.world.outsider:
        await _reach_the_limit_of_samples(called)
        gate = Gate()
        holding = asyncio.create_task(called.world.use.db.write(gate.hold))
        await gate.reached.wait()
        calls = [asyncio.create_task(note(called.call_signed(called.body())))]
        await _until_pending(called)
        calls += [asyncio.create_task(note(post(called, WRONG))) for _ in range(3)]
        _, waiting = await asyncio.wait(calls, timeout=0.1)
        gate.open()
        await asyncio.gather(holding, *calls)
        after = await post(called, WRONG)

    assert len(waiting) == 4
    assert sorted(answered) == [200, 401, 401, 401]
    assert after.status_code == 401


@pytest.mark.usefixtures("way")
async def test_forged_callbacks_are_answered_late_while_units_of_work_wait_for_the_database(
    called: Called, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _reach_the_limit_of_samples(called)
    database, gates = called.world.use.db, [Gate() for _ in range(2)]
    blocked = [asyncio.create_task(database.write(gates[0].hold))]
    await gates[0].reached.wait()
    blocked.append(asyncio.create_task(database.write(gates[1].hold)))
    await asyncio.sleep(0)
    is_busy = database.is_busy
    monkeypatch.setattr("app.callback.FORGED_WAIT_S", 600)
    late = asyncio.create_task(post(called, WRONG))
    _, waiting = await asyncio.wait([late], timeout=0.1)
    late.cancel()
    monkeypatch.setattr("app.callback.FORGED_WAIT_S", 0.001)
    answered = await post(called, WRONG)
    for gate in gates:
        gate.open()
    await asyncio.gather(*blocked)

    assert is_busy
    assert waiting == {late}
    assert answered.status_code == 401


async def _reach_the_limit_of_samples(called: Called) -> None:
    """Send more forged callbacks than are stored, so that the next is only counted."""
    for number in range(12):
        await called.call(b'{"n": %d}' % number, WRONG)


async def _until_pending(called: Called) -> None:
    async def is_pending() -> bool:
        return called.world.use.callbacks.pending is not None

    await until(is_pending)


# Both paths


@pytest.mark.usefixtures("way")
async def test_both_paths_give_the_same_answers(called: Called) -> None:
    start, _, token = called.path.rpartition("/")
    answers = {
        "accepted": await called.call_signed(called.body()),
        "again": await called.call_signed(called.body()),
        "unproven": await post(called),
        "forged": await post(called, WRONG),
        "unknown": await post(called, path=f"{start}/{token[::-1]}"),
        "too large": await called.call(bytes(MB + 1)),
    }

    assert {
        name: (answer.status_code, answer.headers["content-type"], answer.json().get("detail", answer.json()))
        for name, answer in answers.items()
    } == {
        "accepted": (200, "application/json", {"status": "success"}),
        "again": (200, "application/json", {"status": "success"}),
        "unproven": (200, "application/json", {"status": "success"}),
        "forged": (401, "application/json", FORGED),
        "unknown": (404, "application/problem+json", "there is no such callback address"),
        "too large": (413, "application/problem+json", "a callback must not exceed 1024 KiB"),
    }
    assert sorted(await called.verdicts()) == [
        ("forged", "rejected", 1),
        ("signed", "moved", 2),
        ("unproven", "late", 1),
    ]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
async def test_only_post_is_allowed_on_both_paths(called: Called, method: str) -> None:
    answer = await called.world.outsider.request(method, called.path)

    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("path", ["{path}/", "{path}/more", "{path}%2Fmore", "/callbacks/", "/callbacks//x"])
async def test_an_invalid_callback_address_is_not_found(called: Called, path: str) -> None:
    answer = await called.call(called.body(), called.signature(called.body()), path=path.format(path=called.path))

    problem(answer, 404, "not_found")
    assert await called.verdicts() == []


async def test_a_caller_that_disconnects_within_its_body_leaves_nothing(called: Called) -> None:
    body = called.body()
    pieces: list[MutableMapping[str, Any]] = [
        {"type": "http.request", "body": body[:10], "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent = await given(called, iter(pieces), called.signature(body[:10]), (b"content-length", b"%d" % len(body)))

    assert sent[0]["status"] == 400
    assert await called.verdicts() == []
    assert await called.status() == "submitted"
    assert (await called.call_signed(body)).status_code == 200


async def test_a_body_that_does_not_end_is_read_until_it_is_too_large(called: Called) -> None:
    pieces = iter([{"type": "http.request", "body": bytes(MB // 16), "more_body": True}] * 100)
    sent = await given(called, pieces, WRONG)

    assert sent[0]["status"] == 413
    assert len(list(pieces)) == 100 - 17
    assert await called.verdicts() == []


async def test_a_huge_content_length_is_refused(called: Called) -> None:
    sent = await given(called, iter([]), (b"content-length", b"9" * 30))

    assert sent[0]["status"] == 413


async def given(
    called: Called, pieces: Iterator[MutableMapping[str, Any]], *headers: tuple[bytes, bytes]
) -> list[MutableMapping[str, Any]]:
    """Post a callback in these pieces; return what the application sends."""
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return next(pieces)

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": called.path,
        "raw_path": called.path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": list(headers),
        "client": ("127.0.0.1", 1),
        "server": ("gateway", 80),
    }
    gateway = called.world.network.hosts["gateway"]
    assert isinstance(gateway, httpx.ASGITransport)
    await gateway.app(scope, receive, send)
    return sent


async def test_the_openapi_document_contains_the_callback_route(world: World) -> None:
    document = (await world.outsider.get("/openapi.json")).json()
    operation = document["paths"]["/callbacks/{submission_id}/{token}"]["post"]

    assert set(operation["responses"]) == {"200", "401", "404", "413", "503"}
    assert operation["requestBody"]["content"].keys() == {"application/json"}
    assert {each["name"] for each in operation["parameters"]} == {"submission_id", "token"}
