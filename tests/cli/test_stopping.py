"""SIGTERM and SIGINT: a real child process answers the requests in progress and exits with code 0."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from app.twin import build
from tests.sockets import free_address, listening, serving, until
from tests.world import ADMIN_KEY

pytestmark = pytest.mark.proof

ROOT = Path(__file__).resolve().parents[2]


@asynccontextmanager
async def child(folder: Path, provider: str) -> AsyncGenerator[tuple[asyncio.subprocess.Process, httpx.AsyncClient]]:
    """Run `fluxhook serve`, and yield it with a client once it answers."""
    address = free_address()
    env = {name: value for name, value in os.environ.items() if not name.startswith("FLUXHOOK_")} | {
        "FLUXHOOK_DATA_DIR": str(folder / "data"),
        "FLUXHOOK_HOST": "127.0.0.1",
        "FLUXHOOK_PORT": address.rpartition(":")[2],
        "FLUXHOOK_BFL_BASE_URL": provider,
        "FLUXHOOK_BFL_API_KEY": "a-provider-key",
        "FLUXHOOK_ADMIN_KEY": ADMIN_KEY,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "app",
        "serve",
        cwd=ROOT,
        env=env,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    try:
        async with httpx.AsyncClient(base_url=address, headers=headers, timeout=120) as api:

            async def answers() -> bool:
                assert process.returncode is None, "the service exited"
                try:
                    return (await api.get("/healthz")).status_code == httpx.codes.OK
                except httpx.TransportError:
                    return False

            await until(answers, 120)
            yield process, api
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.parametrize("stop_signal", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
async def test_a_stopping_service_answers_waiting_requests_at_once_and_exits_with_0(
    stop_signal: signal.Signals, tmp_path: Path
) -> None:
    theirs, their_address = listening()
    async with (
        serving(build(ready_after_s=3600, seed=1), theirs),
        child(tmp_path, their_address) as (process, api),
    ):
        posting = asyncio.create_task(
            api.post("/v1/tasks", json={"prompt": "a red fox"}, headers={"prefer": "wait=60"})
        )

        async def submitted() -> bool:
            return bool((await api.get("/v1/tasks", params={"status": "submitted"})).json()["tasks"])

        await until(submitted)
        process.send_signal(stop_signal)
        async with asyncio.timeout(30):  # the request would wait for 60 s
            answer = await posting
            code = await process.wait()

    assert (answer.status_code, answer.json()["status"]) == (202, "submitted")
    assert code == 0


async def test_a_process_that_cannot_stop_is_ended() -> None:
    code = "import time; from app.cli.process import exit_in_time; exit_in_time(0.1); time.sleep(600)"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, cwd=ROOT, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    async with asyncio.timeout(120):
        assert await process.wait() == 1
