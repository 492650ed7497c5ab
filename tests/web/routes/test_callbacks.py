"""The list of stored callbacks over HTTP."""

from typing import Any

import pytest

from app import ids
from tests.calling import submitted
from tests.web.documents import problem
from tests.world import World

NOBODY = "0" * 37


async def listed(world: World, **query: Any) -> dict[str, Any]:
    answer = await world.api.get("/v1/callbacks", params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_each_callback_has_its_content_verdict_and_effect(each_world: World) -> None:
    caller = await submitted(each_world)
    await caller.call(caller.ready(), proof={"x-bfl-signature": "sha256=00"})
    await caller.call(caller.ready(), proof={})
    for _ in range(2):
        await caller.call(caller.ready())
    page = await listed(each_world)
    signed, unproven, forged = page["callbacks"]

    assert page["next_cursor"] is None
    assert ids.is_id("ev", signed["id"])
    assert signed == {
        "id": signed["id"],
        "task_id": caller.task_id,
        "submission_id": caller.attempt_id,
        "verdict": "signed",
        "effect": "moved",
        "said": "ready",
        "detail": None,
        "copies": 2,
        "received_at": "2026-01-01T12:00:00.003000Z",
        "last_received_at": "2026-01-01T12:00:00.004000Z",
    }
    assert [(each["verdict"], each["effect"], each["said"]) for each in (unproven, forged)] == [
        ("unproven", "hinted", "unclear"),
        ("forged", "rejected", "unclear"),
    ]


async def test_callbacks_come_in_pages_and_by_task_and_verdict(each_world: World) -> None:
    callers = [await submitted(each_world) for _ in range(3)]
    for caller in callers:
        await caller.call({"status": "Pending"})
    await callers[0].call(b"{}", proof={})
    first = await listed(each_world, limit=3)
    rest = await listed(each_world, limit=3, cursor=first["next_cursor"])
    asked: list[dict[str, Any]] = [
        {"verdict": "unproven"},
        {"verdict": "forged"},
        {"task_id": callers[0].task_id},
        {"task_id": callers[0].task_id, "verdict": "signed"},
        {"task_id": f"task_{NOBODY}"},
    ]
    found = [(await listed(each_world, **query))["callbacks"] for query in asked]

    assert [len(each["callbacks"]) for each in (first, rest)] == [3, 1]
    assert rest["callbacks"][0]["task_id"] == callers[0].task_id
    assert [[each["verdict"] for each in page] for page in found] == [
        ["unproven"],
        [],
        ["unproven", "signed"],
        ["signed"],
        [],
    ]


async def test_the_list_contains_no_proof_and_no_text_of_the_provider(world: World) -> None:
    caller = await submitted(world)
    await caller.call(caller.ready(), proof=caller.plain_secret)
    text = (await world.api.get("/v1/callbacks")).text

    assert "shared_secret" in text
    for kept_back in (caller.proof.secret, caller.proof.token, "a red fox", "sample"):
        assert kept_back not in text


@pytest.mark.parametrize(
    "query",
    [{"verdict": "fetched"}, {"verdict": "true"}, {"task_id": "task_1"}, {"cursor": "dlv_1"}, {"limit": 0}],
    ids=["no callback's verdict", "no verdict", "no task's id", "no cursor", "no limit"],
)
async def test_an_invalid_query_is_refused(world: World, query: dict[str, Any]) -> None:
    found = problem(await world.api.get("/v1/callbacks", params=query), 422)

    assert found["fields"].keys() == query.keys()


async def test_an_unknown_verdict_is_refused_with_those_that_there_are(world: World) -> None:
    found = problem(await world.api.get("/v1/callbacks", params={"verdict": "true"}), 422)

    assert found["fields"] == {"verdict": "input should be 'signed', 'shared_secret', 'unproven' or 'forged'"}


async def test_the_list_of_callbacks_requires_a_key(world: World) -> None:
    problem(await world.outsider.get("/v1/callbacks"), 401)
