"""Starts and kills processes of the service and of the twin, on loopback."""

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
_START_S = 120  # a start takes two seconds, on a busy machine far longer
# Below the ephemeral ports: while the service is down, no other process may get its port.
_PORTS = range(20_000, 30_000)


async def start(arguments: Sequence[str], env: Mapping[str, str], log: Path) -> asyncio.subprocess.Process:
    """Run `python -m app` with only these settings, and its output in `log`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FLUXHOOK_")}
    with log.open("ab") as out:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "app", *arguments), cwd=_ROOT, env={**inherited, **env}, stdout=out, stderr=out
        )


async def end(process: asyncio.subprocess.Process) -> None:
    """Send `kill -9` and wait for the end of the process."""
    if process.returncode is None:
        process.kill()
    await process.wait()


async def answers(client: httpx.AsyncClient, process: asyncio.subprocess.Process) -> bool:
    """Wait until this server answers; return False if it ends instead."""
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
    """Run the twin for the whole storm, which keeps its ledger in memory."""
    base_url = f"http://127.0.0.1:{port}"
    arguments = ["twin", "--port", str(port), "--seed", str(seed), "--ready-after", str(ready_after_s)]
    process = await start(arguments, {}, log)
    try:
        async with httpx.AsyncClient(base_url=base_url, timeout=60, trust_env=False) as client:
            if not await answers(client, process):
                raise RuntimeError(f"the twin did not start; its log is {log}")
            yield client
    finally:
        await end(process)
