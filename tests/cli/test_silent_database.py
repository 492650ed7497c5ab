"""Processes whose connections to PostgreSQL fall silent: tasks go on by themselves, and SIGTERM is obeyed."""

import asyncio
import os
import signal
import time
from pathlib import Path

import httpx
import pytest

from app.twin import build
from tests.postgres_proxy import proxy_to
from tests.replicas import replicas
from tests.sockets import listening, serving, until

pytestmark = pytest.mark.proof

TASKS = 16
AGES_AGO = 1
STOPS_IN_S = 15  # what docs/operating.md promises


async def test_tasks_go_on_while_connections_fall_silent_again_and_again(tmp_path: Path, postgres_url: str) -> None:
    theirs, provider = listening()
    async with (
        proxy_to(postgres_url) as proxy,
        serving(build(ready_after_s=0.2, seed=1), theirs),
        replicas(tmp_path, provider, FLUXHOOK_DATABASE_URL=proxy.url, FLUXHOOK_STATEMENT_SECONDS="1") as ours,
    ):
        await ours.start("serve", "--no-worker")
        await until(ours.healthy, 120)
        for _ in range(2):
            await ours.start("work")
        for number in range(TASKS):
            await ours.post()
            if number % 8 == 4:
                proxy.silence()

        async def all_are_stored() -> bool:
            return len(await ours.tasks("stored")) == TASKS

        await until(all_are_stored, 180)
        ready = await ours.api.get("/readyz")
        async with httpx.AsyncClient(base_url=provider, timeout=60) as client:
            ledger = (await client.get("/twin/ledger")).json()

    assert ready.status_code == 200, ready.text
    assert (ledger["accepted"], ledger["charged"]) == (TASKS, 4 * TASKS)


async def test_while_the_database_is_silent_nothing_is_ready_and_every_process_stops_in_time(
    tmp_path: Path, postgres_url: str
) -> None:
    theirs, provider = listening()
    async with (
        proxy_to(postgres_url) as proxy,
        serving(build(ready_after_s=3600, seed=1), theirs),
        replicas(tmp_path, provider, FLUXHOOK_DATABASE_URL=proxy.url) as ours,
    ):
        heartbeat = tmp_path / "heartbeat"
        heartbeat.touch()
        processes = [
            await ours.start("serve"),
            await ours.start("work", "--heartbeat", str(heartbeat), FLUXHOOK_PORT="0"),
        ]
        await until(ours.healthy, 120)
        await ours.post()
        await until(lambda: ours.has("submitted"), 120)
        os.utime(heartbeat, (AGES_AGO, AGES_AGO))  # it is also touched as the worker starts
        await until(lambda: is_fresh(heartbeat), 120)
        proxy.silence(new_connections=True)
        os.utime(heartbeat, (AGES_AGO, AGES_AGO))
        ready = await ours.api.get("/readyz")
        hanging = [asyncio.create_task(ours.api.get("/v1/tasks")) for _ in range(3)]
        stopped_at = time.monotonic()
        for process in processes:
            process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(120):
            codes = [await process.wait() for process in processes]
        seconds = time.monotonic() - stopped_at
        await asyncio.gather(*hanging, return_exceptions=True)

    assert (ready.status_code, ready.json()["status"]) == (503, "not ready")
    assert heartbeat.stat().st_mtime == AGES_AGO
    assert codes == [0, 0], ours.log.read_text()
    assert seconds < STOPS_IN_S


async def is_fresh(file: Path) -> bool:
    return file.stat().st_mtime > AGES_AGO  # noqa: ASYNC240 - in memory
