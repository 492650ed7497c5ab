"""Processes of their own on loopback: how any of ours is started and ended, and the twin as one."""

import asyncio
import os
import random  # noqa: TID251 - a storm is repeated by its seed
import socket
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

ADMIN_KEY = "an-admin-key-for-proofs-only"
_ROOT = Path(__file__).resolve().parents[2]
_START_S = 60  # a start takes two seconds; a busy machine takes its time
# Below the ports that a system hands out by itself: while the service is down, nothing else may get its port.
_PORTS = range(20_000, 30_000)


async def start(arguments: Sequence[str], env: Mapping[str, str], log: Path) -> asyncio.subprocess.Process:
    """Run `python -m app` with these arguments and no settings but these; what it writes goes to `log`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FLUXHOOK_")}
    with log.open("ab") as out:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "app", *arguments), cwd=_ROOT, env={**inherited, **env}, stdout=out, stderr=out
        )


async def end(process: asyncio.subprocess.Process) -> None:
    """`kill -9`, and wait until it is gone."""
    if process.returncode is None:
        process.kill()
    await process.wait()


async def answers(client: httpx.AsyncClient, process: asyncio.subprocess.Process) -> bool:
    """Wait until this server answers; False when it ended instead."""
    async with asyncio.timeout(_START_S):
        while process.returncode is None:
            try:
                await client.get("/healthz")
            except httpx.TransportError:
                await asyncio.sleep(0.05)
            else:
                return True
    return False


def free_port(rng: random.Random) -> int:
    while True:
        port = rng.choice(_PORTS)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port


@asynccontextmanager
async def playing_twin(port: int, seed: int, ready_after_s: float, log: Path) -> AsyncGenerator[httpx.AsyncClient]:
    """The provider; it lives through the whole storm, as its ledger does."""
    base_url = f"http://127.0.0.1:{port}"
    asked = ["twin", "--port", str(port), "--seed", str(seed), "--ready-after", str(ready_after_s)]
    process = await start(asked, {}, log)
    try:
        async with httpx.AsyncClient(base_url=base_url, timeout=60, trust_env=False) as client:
            if not await answers(client, process):
                raise RuntimeError(f"the twin did not start: see {log}")
            yield client
    finally:
        await end(process)
