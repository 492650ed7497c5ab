"""Processes of the service that share one database, and a client for their API."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from app import ids
from tests.proof.processes import end, start
from tests.sockets import free_address, until
from tests.world import ADMIN_KEY, RING_KEY


@dataclass
class Replicas:
    """Processes that share one database, and a client for their API."""

    env: dict[str, str]
    log: Path
    api: httpx.AsyncClient
    stack: AsyncExitStack

    async def start(self, *arguments: str, **env: str) -> asyncio.subprocess.Process:
        process = await start(arguments, {**self.env, **env}, self.log)
        self.stack.push_async_callback(end, process)
        return process

    async def healthy(self) -> bool:
        try:
            return (await self.api.get("/healthz")).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    async def tasks(self, status: str) -> list[Any]:
        answer = await self.api.get("/v1/tasks", params={"status": status})
        return list(answer.raise_for_status().json()["tasks"])

    async def has(self, status: str) -> bool:
        return bool(await self.tasks(status))

    async def post(self) -> None:
        """Post a task as a well-behaved client does: a 503 is retried with the same idempotency key."""
        headers = {"idempotency-key": ids.new_key()}

        async def is_accepted() -> bool:
            answer = await self.api.post("/v1/tasks", json={"prompt": "a red fox"}, headers=headers)
            if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
                return False
            answer.raise_for_status()
            return True

        await until(is_accepted, 120)


@asynccontextmanager
async def replicas(folder: Path, provider: str, **env: str) -> AsyncGenerator[Replicas]:
    address = free_address()
    all_env = {
        "FLUXHOOK_DATA_DIR": str(folder / "data"),
        "FLUXHOOK_PORT": address.rpartition(":")[2],
        "FLUXHOOK_BFL_BASE_URL": provider,
        "FLUXHOOK_BFL_API_KEY": "a-provider-key",
        "FLUXHOOK_ADMIN_KEY": ADMIN_KEY,
        "FLUXHOOK_SECRET_KEYS": RING_KEY,
        **env,
    }
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    async with AsyncExitStack() as stack, httpx.AsyncClient(base_url=address, headers=headers, timeout=30) as api:
        yield Replicas(all_env, folder / "log", api, stack)
