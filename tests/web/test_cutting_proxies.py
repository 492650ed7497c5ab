"""Proxies with time limits between clients and the service, which holds requests for 55 seconds as shipped.

The limits are played by events: a proxy gives a request up when the test says so, and the provider ends its tasks then.
"""

import asyncio
from pathlib import Path

import httpx
import pytest

from tests.cutting_proxy import cutting_proxy
from tests.held_twin import held_twin
from tests.pictures import picture
from tests.sockets import until
from tests.web.test_joining import BODY, GENERATIONS, service
from tests.world import ADMIN_KEY

KEY = {"x-key": ADMIN_KEY}


@pytest.mark.parametrize("with_page", [True, False], ids=["504", "closes"])
@pytest.mark.parametrize("is_edit", [False, True], ids=["generation", "edit"])
async def test_behind_a_proxy_that_cuts_after_30_seconds_the_retry_of_the_client_joins(
    tmp_path: Path, database_url: str, *, with_page: bool, is_edit: bool
) -> None:
    import openai  # noqa: PLC0415

    async with (
        held_twin() as held,
        service(tmp_path, database_url, twin=held.twin) as running,
        cutting_proxy(running.address, with_page=with_page) as proxy,
        openai.AsyncOpenAI(base_url=f"{proxy.address}/openai/v1", api_key=ADMIN_KEY, max_retries=2) as client,
    ):
        images = client.images.with_raw_response
        asked = images.edit(image=picture(), prompt="greyer") if is_edit else images.generate(prompt="a red fox")
        asking = asyncio.ensure_future(asked)
        for _ in range(2):
            await until(lambda: held.has_charged(1))
            await until(proxy.is_waiting)
            assert proxy.cut() == 1
        await until(proxy.is_waiting)
        held.finish()
        answer = await asking

        assert answer.headers["fluxhook-joined"] == answer.headers["fluxhook-tasks"]
        assert (answer.parse().data or [])[0].b64_json
        assert await held.has_charged(1)


async def test_a_proxy_that_cuts_after_60_or_100_seconds_passes_on_the_504_that_names_the_task(
    tmp_path: Path, database_url: str
) -> None:
    async with (
        held_twin() as held,
        service(tmp_path, database_url, twin=held.twin, FLUXHOOK_OPENAI_WAIT_SECONDS="1") as running,
        cutting_proxy(running.address) as proxy,
        httpx.AsyncClient(base_url=proxy.address, headers=KEY, timeout=60) as client,
    ):
        answers = [await client.post(GENERATIONS, json=BODY) for _ in range(2)]
        assert proxy.cut() == 0  # its limit is reached after the answers
        (task_id,) = await running.tasks()
        held.finish()
        await running.finished()
        made = await client.post(GENERATIONS, json=BODY)

        for answer in answers:
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error["task_id"]) == (504, "task_in_progress", task_id)
            assert answer.headers["retry-after"].isdecimal()
        assert (made.status_code, made.headers["fluxhook-joined"]) == (200, task_id)
        assert await held.has_charged(1)


async def test_a_proxy_that_cuts_idle_connections_lets_spaces_keep_them(tmp_path: Path, sqlite_url: str) -> None:
    async with (
        held_twin() as held,
        service(tmp_path, sqlite_url, twin=held.twin, FLUXHOOK_OPENAI_KEEPALIVE_SECONDS="1") as running,
        cutting_proxy(running.address) as proxy,
        httpx.AsyncClient(base_url=proxy.address, headers=KEY, timeout=60) as client,
    ):
        asking = asyncio.create_task(client.post(GENERATIONS, json=BODY))
        await until(lambda: held.has_charged(1))
        for _ in range(3):
            before = proxy.received

            async def has_received(before: int = before) -> bool:
                return proxy.received > before

            await until(has_received)
            assert proxy.cut_idle() == 0
        held.finish()
        answer = await asking

        assert answer.text.startswith(" ")
        assert answer.json()["data"][0]["b64_json"]


async def test_a_proxy_that_cuts_idle_connections_cuts_without_spaces(tmp_path: Path, sqlite_url: str) -> None:
    async with (
        held_twin() as held,
        service(tmp_path, sqlite_url, twin=held.twin) as running,
        cutting_proxy(running.address) as proxy,
        httpx.AsyncClient(base_url=proxy.address, headers=KEY, timeout=60) as client,
    ):
        asking = asyncio.create_task(client.post(GENERATIONS, json=BODY))
        await until(lambda: held.has_charged(1))
        assert [proxy.cut_idle(), proxy.cut_idle()] == [0, 1]
        assert (await asking).headers["content-type"] == "text/html"
        held.finish()

        assert "fluxhook-joined" in (await client.post(GENERATIONS, json=BODY)).headers
        assert await held.has_charged(1)
