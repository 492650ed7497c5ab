"""The audit: each administrative action leaves one record, in the transaction of the change."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import Connection, TextClause, text
from sqlalchemy.exc import DBAPIError

from app.transitions import audit as recording
from app.transitions.audit import SERVICE, Action
from tests.receivers import receiver, stored_with_webhook
from tests.web.documents import problem
from tests.web.routes.test_jobs import make_dead_letters
from tests.world import World


async def records(world: World, **query: Any) -> list[dict[str, Any]]:
    answer = await world.api.get("/v1/audit", params=query)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["records"]
    return found


def run(connection: Connection, statement: TextClause) -> None:
    connection.execute(statement)


async def actions(world: World) -> list[tuple[str, str]]:
    return [(record["action"], record["subject"]) for record in reversed(await records(world))]


async def test_keys_leave_records_with_who_and_from_where(each_world: World) -> None:
    made = (await each_world.api.post("/v1/keys", json={"name": "shop"})).json()
    path = f"/v1/keys/{made['id']}"
    await each_world.api.patch(path, json={"name": "shop 2", "webhook_url": "https://app.example.com/a-secret"})
    await each_world.api.delete(path)
    await each_world.api.delete(path)  # changes nothing

    assert await actions(each_world) == [
        ("key.created", made["id"]),
        ("key.changed", made["id"]),
        ("key.disabled", made["id"]),
    ]
    newest = (await records(each_world))[0]
    assert (newest["key_id"], newest["application_id"], newest["address"]) == ("key_admin", "app_admin", "127.0.0.1")
    assert newest["at"] == "2026-01-01T12:00:00Z"
    everything = (await each_world.api.get("/v1/audit")).text
    assert "a-secret" not in everything
    assert made["key"] not in everything


async def test_actions_on_tasks_leave_records_only_if_they_change_something(each_world: World) -> None:
    queued = await each_world.post()
    for _ in range(2):
        await each_world.api.post(f"/v1/tasks/{queued}/cancel")
    moderated = await each_world.post(prompt="an unsafe result")
    await each_world.go_on(30)
    for _ in range(2):
        await each_world.api.post(f"/v1/tasks/{moderated}/resubmit")
    for _ in range(2):
        assert (await each_world.api.delete(f"/v1/tasks/{queued}")).status_code == 204

    assert await actions(each_world) == [
        ("task.cancelled", queued),
        ("task.resubmitted", moderated),
        ("task.erased", queued),
    ]
    assert [record["action"] for record in await records(each_world, subject=queued)] == [
        "task.erased",
        "task.cancelled",
    ]


async def test_replays_and_requeued_jobs_leave_records(each_world: World) -> None:
    receiver(each_world, 200)
    await stored_with_webhook(each_world)
    delivery_id = (await each_world.api.get("/v1/deliveries")).json()["deliveries"][0]["id"]
    await make_dead_letters(each_world, "task_1")
    await each_world.api.post("/v1/jobs/held/requeue")
    await each_world.api.post(f"/v1/deliveries/{delivery_id}/replay")

    assert await actions(each_world) == [("job.requeued", "all"), ("delivery.replayed", delivery_id)]
    assert (await records(each_world))[1]["detail"] == {"jobs": 1}


async def test_parallel_actions_form_one_chain(each_world: World) -> None:
    await asyncio.gather(*(each_world.api.post("/v1/keys", json={"name": f"key {number}"}) for number in range(12)))

    found = await records(each_world)
    assert [record["sequence"] for record in found] == list(range(12, 0, -1))
    assert [later["previous"] for later in found[:-1]] == [record["digest"] for record in found[1:]]


async def test_a_change_that_is_rolled_back_leaves_no_record(each_world: World) -> None:
    def fail(connection: Any) -> None:
        recording.record(connection, SERVICE, Action.KEY_CREATED, "key_1", each_world.clock())
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 - raised above
        await each_world.use.db.write(fail)

    assert await records(each_world) == []


async def test_the_database_refuses_to_change_or_remove_a_record(each_world: World) -> None:
    await each_world.api.post("/v1/keys", json={"name": "shop"})

    for change in ("UPDATE audit SET key_id = 'key_2'", "DELETE FROM audit"):
        with pytest.raises(DBAPIError, match="can only be appended to"):
            await each_world.use.db.write(run, text(change))

    assert len(await records(each_world)) == 1


async def test_pages_follow_each_other(world: World) -> None:
    for number in range(5):
        await world.api.post("/v1/keys", json={"name": f"key {number}"})

    page = (await world.api.get("/v1/audit", params={"limit": 3})).json()
    rest = (await world.api.get("/v1/audit", params={"limit": 3, "cursor": page["next_cursor"]})).json()

    assert [record["sequence"] for record in page["records"] + rest["records"]] == [5, 4, 3, 2, 1]
    assert rest["next_cursor"] is None


async def test_only_an_admin_reads_the_audit(world: World) -> None:
    key = (await world.api.post("/v1/keys", json={"name": "shop"})).json()["key"]

    problem(await world.outsider.get("/v1/audit", headers={"x-key": key}), 403, "forbidden")
    problem(await world.outsider.get("/v1/audit"), 401, "unauthorized")
    problem(await world.api.get("/v1/audit?subject=%00"), 422)
