"""A retry joins: over real sockets, with clients that hang up, and with the ledger as judge."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from sqlalchemy import select, text
from structlog.testing import capture_logs

from app.db.queries import processes
from app.db.tables.undelivered_requests import undelivered_requests
from app.twin import Twin, create_twin_app
from tests.databases import connection_to
from tests.held_twin import held_twin
from tests.proof.processes import end
from tests.replicas import replicas
from tests.services import services_running
from tests.sockets import listening, serving, until
from tests.world import ADMIN_KEY

DOORS = ("/v1/tasks", "/v1/flux-2-pro", "/openai/v1/images/generations")
GENERATIONS, EDITS = "/openai/v1/images/generations", "/openai/v1/images/edits"
BODY = {"prompt": "a red fox"}
# Requests whose row waits for a lock.
RECORDING = """
SELECT count(*) FROM pg_stat_activity
WHERE wait_event_type = 'Lock' AND query LIKE 'INSERT INTO undelivered_requests%'
"""


@dataclass
class Service:
    address: str
    api: httpx.AsyncClient
    twin: httpx.AsyncClient

    async def charged(self) -> int:
        """Return how many tasks the provider has accepted."""
        return len((await self.twin.get("/twin/ledger")).json()["tasks"])

    async def tasks(self) -> list[str]:
        return [task["id"] for task in (await self.api.get("/v1/tasks")).json()["tasks"]]

    async def has_tasks(self) -> bool:
        return bool(await self.tasks())

    async def finished(self) -> None:
        async def all_are_stored() -> bool:
            listed = (await self.api.get("/v1/tasks")).json()["tasks"]
            return all(task["status"] == "stored" for task in listed)

        await until(all_are_stored)


@asynccontextmanager
async def service(
    folder: Path, database_url: str, ready_after_s: float = 0.2, twin: Twin | None = None, **env: str
) -> AsyncGenerator[Service]:
    async with (
        services_running(folder, database_url, ready_after_s=ready_after_s, env=env, twin=twin) as (ours, theirs),
        httpx.AsyncClient(base_url=ours, headers={"x-key": ADMIN_KEY}, timeout=60) as api,
        httpx.AsyncClient(base_url=theirs, timeout=60) as provider,
    ):
        (await provider.put("/twin/rules", json={"megapixels": 0.02})).raise_for_status()
        yield Service(ours, api, provider)


async def hang_up(
    address: str, path: str, body: dict[str, Any], when: Callable[[], Awaitable[bool]], key: str = ADMIN_KEY
) -> None:
    """Post, and close the connection without reading the answer once `when` returns True."""
    parts = urlsplit(address)
    _, writer = await asyncio.open_connection(parts.hostname, parts.port)
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nx-key: {key}\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}content-length: {len(content)}\r\nprefer: wait=30\r\n\r\n".encode() + content)
    await writer.drain()
    await until(when)
    writer.close()


@pytest.mark.parametrize("path", ["/v1/tasks", GENERATIONS])
async def test_a_client_that_hangs_up_and_retries_gets_one_task(tmp_path: Path, database_url: str, path: str) -> None:
    async with held_twin() as held, service(tmp_path, database_url, twin=held.twin) as running:
        for _ in range(5):
            await hang_up(running.address, path, BODY, lambda: held.has_charged(1))
        held.finish()
        answer = await running.api.post(path, json=BODY, headers={"prefer": "wait=30"})

        (task_id,) = await running.tasks()
        assert answer.status_code == 200
        assert answer.headers["fluxhook-joined"] == task_id
        assert await held.has_charged(1)

        again = asyncio.create_task(running.api.post(path, json=BODY))
        await until(lambda: held.has_charged(2))
        held.finish()
        assert "fluxhook-joined" not in (await again).headers


async def test_a_hang_up_and_a_join_are_logged_with_the_task(tmp_path: Path, sqlite_url: str) -> None:
    with capture_logs() as lines:
        async with held_twin() as held, service(tmp_path, sqlite_url, twin=held.twin) as running:

            async def is_logged() -> bool:
                return any(line.get("code") == "client_gone" for line in lines)

            await hang_up(running.address, GENERATIONS, BODY, lambda: held.has_charged(1))
            await until(is_logged)
            held.finish()
            answer = await running.api.post(GENERATIONS, json=BODY)

    logged = [line for line in lines if line["event"] == "request" and line.get("route") == GENERATIONS]
    assert [line["status"] for line in logged] == [499, 200]
    assert [line["task_id"] for line in logged] == [answer.headers["fluxhook-joined"]] * 2


@pytest.mark.parametrize("path", DOORS)
async def test_a_retry_joins_a_request_that_was_given_up_while_it_was_recorded(
    tmp_path: Path, postgres_url: str, path: str
) -> None:
    """The first request has checked that its client is there, and its row is not visible to others yet."""
    async with service(tmp_path, postgres_url) as running, connection_to(postgres_url) as database:

        async def is_recorded() -> bool:
            await database.execute(text("SELECT pg_stat_clear_snapshot()"))  # it is kept for the transaction
            found = await database.execute(text(RECORDING))
            return bool(found.scalar_one())

        await database.execute(text("LOCK TABLE undelivered_requests IN SHARE MODE"))
        asking = asyncio.create_task(running.api.post(path, json=BODY))
        await until(is_recorded)
        asking.cancel()
        await asyncio.wait([asking])
        retrying = asyncio.create_task(running.api.post(path, json=BODY))
        await asyncio.sleep(0.5)  # for a retry that does not wait for the first request
        await database.commit()
        answer = await retrying

        assert [answer.headers["fluxhook-joined"]] == await running.tasks()


@pytest.mark.parametrize("path", DOORS)
async def test_asking_twice_makes_two_images(tmp_path: Path, sqlite_url: str, path: str) -> None:
    async with service(tmp_path, sqlite_url) as running:
        one_after_the_other = [await running.api.post(path, json=BODY) for _ in range(2)]
        at_once = await asyncio.gather(*(running.api.post(path, json=BODY) for _ in range(3)))

        for answer in (*one_after_the_other, *at_once):
            assert answer.is_success
            assert "fluxhook-joined" not in answer.headers
        await running.finished()
        assert await running.charged() == 5


async def test_a_retry_finds_the_tasks_of_a_request_that_was_held_too_long(tmp_path: Path, database_url: str) -> None:
    body = {**BODY, "n": 2}
    async with service(tmp_path, database_url, ready_after_s=2.5, FLUXHOOK_OPENAI_WAIT_SECONDS="1") as running:
        first = await running.api.post(GENERATIONS, json=body)
        assert first.status_code == 504
        assert (first.headers["retry-after"], first.headers["x-should-retry"]) == ("5", "true")
        task_ids = first.json()["error"]["task_ids"]
        other = await running.api.post(GENERATIONS, json={**body, "n": 1})
        assert "fluxhook-joined" not in other.headers  # another request

        answer = first
        while answer.status_code == 504:
            answer = await running.api.post(GENERATIONS, json=body)
        assert answer.status_code == 200
        assert answer.headers["fluxhook-joined"] == answer.headers["fluxhook-tasks"] == ", ".join(task_ids)
        assert len(answer.json()["data"]) == 2
        assert await running.charged() == 3


async def test_a_retry_of_a_failed_task_gets_the_failure_once(tmp_path: Path, sqlite_url: str) -> None:
    body = {"prompt": "fail"}
    async with service(tmp_path, sqlite_url, ready_after_s=0.5) as running:
        await hang_up(running.address, GENERATIONS, body, running.has_tasks)
        answers = [await running.api.post(GENERATIONS, json=body) for _ in range(2)]

        assert [answer.status_code for answer in answers] == [502, 502]
        assert len(await running.tasks()) == 2


async def test_joining_can_be_turned_off(tmp_path: Path, sqlite_url: str) -> None:
    async with service(
        tmp_path, sqlite_url, ready_after_s=3, FLUXHOOK_JOIN_SECONDS="0", FLUXHOOK_OPENAI_WAIT_SECONDS="1"
    ) as running:
        answers = [await running.api.post(GENERATIONS, json=BODY) for _ in range(2)]

        assert [answer.headers["x-should-retry"] for answer in answers] == ["false", "false"]
        assert len(await running.tasks()) == 2


@pytest.mark.parametrize(("path", "prefer"), [("/v1/tasks", "wait=30"), (GENERATIONS, "")])
async def test_an_application_can_turn_joining_off(tmp_path: Path, database_url: str, path: str, prefer: str) -> None:
    async with service(tmp_path, database_url, ready_after_s=1.5) as running:
        owned = {"name": "shop", "join_retries": False}
        application_id = (await running.api.post("/v1/applications", json=owned)).json()["id"]
        made = await running.api.post(f"/v1/applications/{application_id}/keys", json={"name": "first"})
        own = {"x-key": made.json()["key"], "prefer": prefer}

        asking = asyncio.create_task(running.api.post(path, json=BODY, headers=own))
        await until(running.has_tasks)
        asking.cancel()
        await asyncio.wait([asking])
        answer = await running.api.post(path, json=BODY, headers=own)

        assert answer.status_code == 200
        assert "fluxhook-joined" not in answer.headers
        assert len(await running.tasks()) == 2


async def test_a_504_says_whether_a_retry_would_pay_again(tmp_path: Path, sqlite_url: str) -> None:
    async with service(tmp_path, sqlite_url, ready_after_s=30, FLUXHOOK_OPENAI_WAIT_SECONDS="1") as running:
        joins = await running.api.post(GENERATIONS, json=BODY)
        await running.api.patch("/v1/applications/app_admin", json={"join_retries": False})
        pays = await running.api.post(GENERATIONS, json=BODY)

        assert "The same request finds it" in joins.json()["error"]["message"]
        assert "would pay" in pays.json()["error"]["message"]
        assert (joins.headers["x-should-retry"], pays.headers["x-should-retry"]) == ("true", "false")
        assert len(await running.tasks()) == 2


@pytest.mark.proof
async def test_a_client_that_hangs_up_at_three_replicas_with_kills_is_charged_once(
    tmp_path: Path, postgres_url: str
) -> None:
    """It hangs up after two seconds, five times, and asks each replica in turn. Two are killed with its request."""
    theirs, provider = listening()
    env = {"FLUXHOOK_DATABASE_URL": postgres_url}
    async with AsyncExitStack() as stack:
        held = await stack.enter_async_context(held_twin())
        database = await stack.enter_async_context(connection_to(postgres_url))
        await stack.enter_async_context(serving(create_twin_app(held.twin), theirs))
        ours = [await stack.enter_async_context(replicas(tmp_path, provider, **env)) for _ in range(3)]
        running = {replica.env["FLUXHOOK_PORT"]: await replica.start("serve") for replica in ours}

        async def may_be_joined() -> bool:
            """Whether the end of the last request is known. A client that pauses between its retries finds it so."""
            row = (await database.execute(select(undelivered_requests))).one()
            is_over = row.answer_due_at is None or not await database.run_sync(processes.lives, row.process_id)
            await database.commit()
            return is_over

        for number in range(5):
            replica = ours[number % 3]
            await until(replica.healthy)
            asking = asyncio.create_task(replica.api.post(GENERATIONS, json=BODY))
            await until(lambda: held.has_charged(1))
            await asyncio.wait([asking], timeout=2)
            port = replica.env["FLUXHOOK_PORT"]
            if number in {1, 3}:
                await end(running[port])
                running[port] = await replica.start("serve")
            asking.cancel()
            await asyncio.wait([asking])
            await until(may_be_joined)
        held.finish()
        answer = await ours[2].api.post(GENERATIONS, json=BODY)

        assert answer.status_code == 200, answer.text
        assert answer.headers["fluxhook-joined"] == answer.headers["fluxhook-tasks"]
        assert await held.has_charged(1)

        again = asyncio.create_task(ours[2].api.post(GENERATIONS, json=BODY))
        await until(lambda: held.has_charged(2))
        held.finish()
        assert "fluxhook-joined" not in (await again).headers
