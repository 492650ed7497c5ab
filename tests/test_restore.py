"""The operating guide's backup, taken from a service that runs and brought back as the guide says, on both engines."""

import asyncio
import os
import subprocess
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4  # noqa: TID251 - names a throw-away database

import httpx
import pytest

from app.cli.serve import prepare
from app.clock import utc_now
from app.main import create_app
from app.settings import Settings
from app.twin import Rules, Twin, create_twin_app
from app.wiring import open_resources
from benchmarks.postgres_server import client_programs
from tests.conftest import skip_or_fail
from tests.guide import block
from tests.postgres import Postgres
from tests.sockets import listening, serving, until

LONG = 3600.0

_KEY = "an-admin-key-for-tests-only"


@dataclass
class Provider:
    """The twin behind a real socket, with a clock that can be put forward."""

    address: str
    twin: Twin = field(init=False)
    ahead: timedelta = timedelta()

    def now(self) -> datetime:
        return utc_now() + self.ahead


@asynccontextmanager
async def provider() -> AsyncGenerator[Provider]:
    bound, address = listening()
    async with httpx.AsyncClient(trust_env=False, timeout=60) as send:
        opened = Provider(address)
        opened.twin = Twin(Rules(megapixels=0.05, ready_after=timedelta(0)), now=opened.now, send=send)
        async with serving(create_twin_app(opened.twin), bound):
            yield opened


@dataclass
class Site:
    """One installation: where it keeps things, and what its environment says."""

    engine: str
    folder: Path
    env: dict[str, str]

    @asynccontextmanager
    async def running(self, *, worker: bool = True) -> AsyncGenerator[httpx.AsyncClient]:
        settings = Settings.from_env(self.env)
        key = await prepare(settings) or (self.folder / "admin_key").read_text().strip()
        bound, address = listening(settings.port)
        async with (
            serving(create_app(open_resources(settings), with_worker=worker), bound),
            httpx.AsyncClient(base_url=address, headers={"x-key": key}, timeout=120) as api,
        ):
            yield api

    async def run(self, name: str, backup: Path) -> None:
        """Have a shell do what the guide gives under this name."""
        env = {**os.environ, **self.env, "BACKUP": str(backup)}
        if self.engine == "postgres":
            env["PATH"] = f"{client_programs()}:{env['PATH']}"
        commands = ["sh", "-euc", block(name)]
        await asyncio.to_thread(subprocess.run, commands, env=env, check=True, capture_output=True)


@pytest.fixture
def postgres_databases(postgres: Postgres) -> Generator[list[str]]:
    """Two empty databases: one that is lost, one to restore into."""
    if client_programs() is None:
        skip_or_fail("postgres", "no pg_dump here: install PostgreSQL's client programs")
    names = [f"test_{uuid4().hex}" for _ in range(2)]
    yield [asyncio.run(postgres.create(name)) for name in names]
    for name in names:
        asyncio.run(postgres.drop(name))


@pytest.fixture(params=["sqlite", "postgres"])
def sites(request: pytest.FixtureRequest, tmp_path: Path) -> list[Site]:
    """An installation, and the one that takes its place under the same address."""
    engine, folders = request.param, [tmp_path / "lost", tmp_path / "restored"]
    bound, address = listening()
    bound.close()
    env = {"PUBLIC_URL": address, "PORT": address.rpartition(":")[2], "BFL_API_KEY": "a-provider-key"}
    given = [{**env, "DATA_DIR": str(folder)} for folder in folders]
    if engine == "postgres":
        for each, url in zip(given, request.getfixturevalue("postgres_databases"), strict=True):
            each |= {
                "DATABASE_URL": url,
                "SECRET_KEYS": "a-secret-key-" * 4,
                "ADMIN_KEY": "an-admin-key-for-tests-only",
            }
            (Path(each["DATA_DIR"])).mkdir()
            (Path(each["DATA_DIR"]) / "admin_key").write_text(_KEY)
    return [
        Site(engine, folder, {f"FLUXHOOK_{name}": value for name, value in each.items()})
        for folder, each in zip(folders, given, strict=True)
    ]


async def post(api: httpx.AsyncClient, prompt: str) -> str:
    answer = await api.post("/v1/tasks", json={"prompt": prompt})
    return str(answer.raise_for_status().json()["id"])


async def reaches(api: httpx.AsyncClient, task_id: str, status: str) -> None:
    async def reached() -> bool:
        return bool((await api.get(f"/v1/tasks/{task_id}")).json()["status"] == status)

    await until(reached)


async def image(api: httpx.AsyncClient, task_id: str) -> bytes:
    return (await api.get(f"/v1/tasks/{task_id}/image")).raise_for_status().content


@pytest.mark.proof
async def test_a_backup_is_restored_as_documented_and_nothing_is_charged_twice(
    sites: list[Site], tmp_path: Path
) -> None:
    lost, restored = sites
    backup = tmp_path / "backup"
    async with provider() as theirs:
        for site in sites:
            site.env["FLUXHOOK_BFL_BASE_URL"] = theirs.address
        async with lost.running() as api:
            stored = await post(api, "stored before")
            await reaches(api, stored, "stored")
            theirs.twin.rules = theirs.twin.rules.changed({"ready_after_s": LONG})
            at_work = await post(api, "at the provider")
            await reaches(api, at_work, "submitted")
            before = await image(api, stored)
        async with lost.running(worker=False) as api:
            queued = await post(api, "queued then, submitted since")
            await lost.run(f"{lost.engine} backup", backup)
        async with lost.running() as api:
            unknown = await post(api, "submitted since")
            await reaches(api, queued, "submitted")
            await reaches(api, unknown, "submitted")
            cursor = (await api.get("/v1/events")).json()["next_cursor"]

        await restored.run(f"{lost.engine} restore", backup)

        async with restored.running(worker=False) as api:
            assert await image(api, stored) == before
            assert (await api.get(f"/v1/tasks/{unknown}")).status_code == 404
            assert (await api.get("/v1/events", params={"after": cursor})).json()["code"] == "events_gone"
            (await api.post(f"/v1/tasks/{queued}/cancel")).raise_for_status()
        theirs.ahead = timedelta(seconds=LONG)
        async with restored.running() as api:
            await reaches(api, at_work, "stored")
            again = await post(api, "after the restore")
            await reaches(api, again, "submitted")
            await until(lambda: answered(theirs, 404))

    ledger = theirs.twin.ledger()
    assert (ledger["accepted"], ledger["charged"]) == (5, 5 * 4)


async def answered(theirs: Provider, status: int) -> bool:
    """Whether a callback was answered so."""
    tasks: list[dict[str, Any]] = theirs.twin.ledger()["tasks"]
    return any(call["answered"] == status for task in tasks for call in task["callbacks"])
