"""A prompt is stored once, in as many bytes as it has, and everything that shows it reads it from the task."""

import json
from typing import Any

import pytest
from sqlalchemy import LargeBinary, cast, func, select

from app.db import Connection
from app.db.engine.columns import metadata
from tests.receivers import URL, deliveries, receiver
from tests.world import World

PROMPT = "ein Füchslein, " + "狐🦊" * 10_000
SIZE = len(PROMPT.encode())
# Exactly as it was received, because a signature covers the bytes.
RAW = {"evidence.body"}


def large_columns(connection: Connection) -> dict[str, int]:
    """Return the columns in which a value has more than a tenth of the prompt's bytes, with their size in bytes."""
    sizes = {}
    for table in metadata.sorted_tables:
        for column in table.columns:
            size = connection.scalar(select(func.sum(func.length(cast(column, LargeBinary)))).select_from(table))
            sizes[f"{table.name}.{column.name}"] = size or 0
    return {name: size for name, size in sizes.items() if size > SIZE / 10}


def request(form: str) -> dict[str, Any]:
    return {"prompt": PROMPT, "webhook_url": URL, "webhook_form": form, "webhook_events": ["submitted"]}


@pytest.mark.parametrize("form", ["provider", "event"])
async def test_a_prompt_is_stored_once_and_not_escaped(world: World, form: str) -> None:
    heard = receiver(world)
    posted = [await world.api.post("/v1/tasks", json=request(form), headers={"idempotency-key": "k"}) for _ in range(2)]
    await world.go_on(6)
    sizes = await world.use.db.read(large_columns)

    assert {name for name in sizes if name not in RAW} == {"tasks.request"}
    assert sizes["tasks.request"] < SIZE + 1000
    assert [answer.json()["params"]["prompt"] for answer in posted] == [PROMPT, PROMPT]
    assert posted[0].json() == posted[1].json()
    last = json.loads(heard.bodies[-1])
    sent = last["result"] if form == "provider" else last["data"]["task"]
    assert sent["prompt"] == PROMPT
    shown = await world.api.get(f"/v1/deliveries/{(await deliveries(world))[0]['id']}")
    payload = shown.json()["payload"]
    assert (payload["result"] if form == "provider" else payload["data"]["task"])["prompt"] == PROMPT


async def test_a_repeated_request_for_an_erased_task_is_still_answered_as_such(world: World) -> None:
    headers = {"idempotency-key": "k"}
    task_id = (await world.api.post("/v1/tasks", json={"prompt": PROMPT}, headers=headers)).json()["id"]
    await world.go_on(6)
    await world.api.delete(f"/v1/tasks/{task_id}")

    again = await world.api.post("/v1/tasks", json={"prompt": PROMPT}, headers=headers)

    assert again.status_code == 404
