"""The service on a PostgreSQL behind PgBouncer in transaction mode."""

import asyncio
from collections.abc import AsyncGenerator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import make_url

from tests.postgres import Postgres
from tests.services import services_running
from tests.sockets import until
from tests.world import ADMIN_KEY

POSTS = 40


@pytest.fixture(params=["without a direct URL", "with a direct URL"])
async def api(
    request: pytest.FixtureRequest, tmp_path: Path, pooled: Postgres, postgres_url: str
) -> AsyncGenerator[httpx.AsyncClient]:
    """A client of the service, which runs beside the provider's twin."""
    env = {"FLUXHOOK_DATABASE_DIRECT_URL": postgres_url} if request.param == "with a direct URL" else {}
    url = pooled.address(str(make_url(postgres_url).database))
    async with (
        services_running(tmp_path, url, env=env) as (address, twin),
        httpx.AsyncClient(base_url=address, headers={"x-key": ADMIN_KEY}, timeout=120) as client,
    ):
        (await client.put(f"{twin}/twin/rules", json={"megapixels": 0.05})).raise_for_status()
        yield client


async def all_tasks(api: httpx.AsyncClient) -> list[dict[str, Any]]:
    answer = await api.get("/v1/tasks", params={"limit": 100})
    assert answer.status_code == HTTPStatus.OK, answer.text
    found: list[dict[str, Any]] = answer.json()["tasks"]
    return found


async def test_every_post_is_answered_with_its_task_and_every_task_is_stored(api: httpx.AsyncClient) -> None:
    ready = await api.get("/readyz")
    answers = await asyncio.gather(*(api.post("/v1/tasks", json={"prompt": str(n)}) for n in range(POSTS)))

    assert ready.json()["status"] == "ready"
    assert [answer.status_code for answer in answers] == [HTTPStatus.ACCEPTED] * POSTS

    async def are_stored() -> bool:
        return all(task["status"] == "stored" for task in await all_tasks(api))

    await until(are_stored)
    assert {task["id"] for task in await all_tasks(api)} == {answer.json()["id"] for answer in answers}


async def test_a_waiting_client_gets_the_finished_task(api: httpx.AsyncClient) -> None:
    answer = await api.post("/v1/tasks", json={"prompt": "a red fox"}, headers={"prefer": "wait=60"})

    assert (answer.status_code, answer.json()["status"]) == (HTTPStatus.OK, "stored")
