"""The request log: one line for each request, and no secret in any line."""

from collections.abc import Generator, MutableMapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.calling import submitted
from tests.world import ADMIN_KEY, World

Lines = list[MutableMapping[str, Any]]


@pytest.fixture
def lines() -> Generator[Lines]:
    """All lines of the log, as they are written."""
    with capture_logs() as captured:
        yield captured


def requests(lines: Lines) -> Lines:
    return [line for line in lines if line["event"] == "request"]


async def test_each_request_gets_one_line(world: World, lines: Lines) -> None:
    await world.api.get("/v1/tasks?limit=5")

    (line,) = requests(lines)
    assert line.pop("ms") >= 0
    assert line == {
        "event": "request",
        "log_level": "info",
        "method": "GET",
        "route": "/v1/tasks",
        "status": 200,
        "key_id": "key_admin",
        "task_id": None,
    }


async def test_a_line_names_the_task_by_its_id(world: World, lines: Lines) -> None:
    task_id = await world.post()
    await world.api.get(f"/v1/tasks/{task_id}")

    assert [line["task_id"] for line in requests(lines)] == [task_id, task_id]


@pytest.mark.parametrize("text", [ADMIN_KEY, "a red fox", "x\ny", "x" * 5000], ids=["key", "prompt", "lines", "long"])
async def test_an_invalid_id_is_not_logged(world: World, lines: Lines, text: str) -> None:
    await world.api.get(f"/v1/tasks/{text.replace(chr(10), '%0a')}/timeline")

    (line,) = requests(lines)
    assert (line["task_id"], line["status"]) == (None, 404)


async def test_a_line_says_by_which_code_a_request_was_refused(world: World, lines: Lines) -> None:
    await world.api.post("/v1/tasks", json={})

    (line,) = requests(lines)
    assert (line["status"], line["code"], line["task_id"]) == (422, "invalid_request", None)


async def test_the_line_of_a_callback_names_the_attempt_and_what_it_proved(world: World, lines: Lines) -> None:
    caller = await submitted(world)
    await caller.call(b"{}", {"x-bfl-signature": "wrong"})
    await caller.call(b"{}", token="x" * 43)

    posted, forged, unknown = requests(lines)
    assert posted["submission_id"] == caller.attempt_id
    assert (forged["submission_id"], forged["verdict"]) == (caller.attempt_id, "forged")
    assert "submission_id" not in unknown


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nope/secret", 404), ("PUT", "/v1/tasks", 405), ("GET", "/healthz", 200), ("GET", "/", 401)],
)
async def test_a_refused_request_is_logged_like_any_other(
    world: World, lines: Lines, method: str, path: str, status: int
) -> None:
    await world.outsider.request(method, path)

    (line,) = requests(lines)
    assert (line["method"], line["status"], line["key_id"]) == (method, status, None)
    assert "secret" not in line["route"]


async def test_no_line_of_a_whole_task_holds_a_token_a_secret_a_prompt_or_a_key(world: World, lines: Lines) -> None:
    task_id = await world.post(prompt="Rumpelstiltskin spins")
    await world.work()
    attempt = (await world.timeline(task_id, "submission"))[0]["submission_id"]
    proof = world.use.keys.callback_proof(attempt, world.use.keys.newest)
    await world.outsider.post(f"/callbacks/{attempt}/{proof.token}", content=b"{}", headers={"x-bfl-signature": "no"})
    await world.outsider.post(f"/callbacks/{attempt}/{proof.token}x", content=b"{}")
    await world.outsider.post("/session", data={"key": ADMIN_KEY})
    await world.outsider.get(f"/v1/tasks?x-key={ADMIN_KEY}", headers={"x-key": "a-wrong-key"})
    await world.go_on(6)

    assert len(requests(lines)) >= 7
    written = repr(lines)
    for private in (proof.token, proof.secret, "Rumpelstiltskin", ADMIN_KEY, "a-wrong-key", "a-provider-key", "sig="):
        assert private not in written
