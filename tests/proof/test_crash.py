"""`kill -9` of the service between submit and callback: a real process, real sockets, real time."""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.twin import build
from tests.sockets import free_address, listening, serving, until
from tests.world import ADMIN_KEY

pytestmark = pytest.mark.proof

_ROOT = Path(__file__).resolve().parents[2]


@asynccontextmanager
async def service(env: dict[str, str]) -> AsyncGenerator[httpx.AsyncClient]:
    """Run `fluxhook serve` as a child process, and wait until it answers; `kill -9` after the block."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FLUXHOOK_")}
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app", "serve"),
        cwd=_ROOT,
        env={**inherited, **env},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    base_url = f"http://127.0.0.1:{env['FLUXHOOK_PORT']}"
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    try:
        async with httpx.AsyncClient(base_url=base_url, headers=headers, timeout=120) as api:

            async def answers() -> bool:
                assert child.returncode is None, "the service ended without a kill"
                try:
                    return (await api.get("/healthz")).status_code == 200
                except httpx.TransportError:
                    return False

            await until(answers)
            yield api
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


@pytest.mark.parametrize("source", ["called back", "polled"])
async def test_a_service_killed_after_the_submit_finishes_the_task_after_its_restart(
    source: str, tmp_path: Path
) -> None:
    their_socket, their_address = listening()
    our_address = free_address()
    env = {
        "FLUXHOOK_DATA_DIR": str(tmp_path / "data"),
        "FLUXHOOK_HOST": "127.0.0.1",
        "FLUXHOOK_PORT": our_address.rpartition(":")[2],
        "FLUXHOOK_BFL_BASE_URL": their_address,
        "FLUXHOOK_BFL_API_KEY": "a-provider-key",
        "FLUXHOOK_ADMIN_KEY": ADMIN_KEY,
        "FLUXHOOK_PUBLIC_URL": our_address if source == "called back" else "",
    }
    twin = httpx.AsyncClient(base_url=their_address, timeout=60)
    async with serving(build(ready_after_s=0.5, seed=1), their_socket), twin:
        waits = {"megapixels": 0.02, "retries_s": [0.5] * 40}
        (await twin.put("/twin/rules", json=waits)).raise_for_status()
        async with service(env) as api:
            location = await submitted(api)
        await until(lambda: has_finished(twin, source))
        async with service(env) as api:
            task = (await api.get(location, headers={"prefer": "wait=60"})).json()
            entries = (await api.get(f"{location}/timeline")).json()["entries"]
        ledger = (await twin.get("/twin/ledger")).json()

    moved = [entry["witness"] for entry in entries if entry.get("effect") == "moved"]
    assert task["status"] == "stored"
    # A restarted service polls at once, possibly before the next callback arrives.
    assert moved in ([["submit", "poll"], ["submit", "callback"]] if source == "called back" else [["submit", "poll"]])
    assert (ledger["accepted"], ledger["charged"]) == (1, 4)
    assert task["image"]["sha256"] == ledger["tasks"][0]["sha256"]


async def submitted(api: httpx.AsyncClient) -> str:
    """Post a task, wait until the provider has it, and return its location."""
    posted = await api.post("/v1/tasks", json={"prompt": "a red fox"})
    location = str(posted.headers["location"])

    async def taken() -> bool:
        return (await api.get(location)).json()["status"] not in {"queued", "submitting"}

    await until(taken)
    return location


async def has_finished(twin: httpx.AsyncClient, source: str) -> bool:
    """Whether the provider has finished the task and, if it sends callbacks, tried to deliver one."""
    (task,) = (await twin.get("/twin/ledger")).json()["tasks"]
    attempts: list[dict[str, Any]] = task["callbacks"]
    return bool(attempts) if source == "called back" else task["status"] == "Ready"
