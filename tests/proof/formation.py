"""The processes of the service and their common settings: one on SQLite, or several on PostgreSQL."""

import random  # noqa: TID251 - a storm is repeated by its seed
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Literal
from uuid import uuid4  # noqa: TID251 - names a temporary database

import httpx

from benchmarks.postgres_server import Server
from tests.postgres import start_postgres
from tests.postgres_proxy import Proxy, proxy_to
from tests.proof.fleet import Fleet, Member
from tests.proof.processes import ADMIN_KEY, free_port

RING_KEY = "a-ring-key-for-proofs-only-0123456789"


@dataclass(frozen=True, slots=True)
class Formation:
    """The number of APIs and of separate workers; without separate workers each API runs a worker."""

    database: Literal["sqlite", "postgres"] = "sqlite"
    apis: int = 1
    workers: int = 0
    hold_s: int | None = None  # FLUXHOOK_HOLD_SECONDS
    statement_s: int = 30  # FLUXHOOK_STATEMENT_SECONDS
    accounts: int = 1  # of the provider, each with a key of its own
    proxied: bool = False  # whether a proxy stands between the processes and PostgreSQL


@dataclass(frozen=True)
class Service:
    """The fleet, and a client of each of its APIs."""

    fleet: Fleet
    apis: Sequence[httpx.AsyncClient]
    database_url: str  # without the proxy
    proxy: Proxy | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "_turns", cycle(self.apis))

    @property
    def api(self) -> httpx.AsyncClient:
        """The clients in turn, as behind a load balancer, including those of dead APIs."""
        client: httpx.AsyncClient = next(self._turns)  # type: ignore[attr-defined]
        return client


@asynccontextmanager
async def form(formation: Formation, folder: Path, twin_url: str, rng: random.Random) -> AsyncGenerator[Service]:
    """Prepare the processes of this formation without starting them."""
    async with AsyncExitStack() as stack:
        database_url, server = await stack.enter_async_context(_database(formation))
        proxy = await stack.enter_async_context(proxy_to(database_url)) if formation.proxied else None
        urls = [f"http://127.0.0.1:{free_port(rng)}" for _ in range(formation.apis)]
        clients = [await stack.enter_async_context(_client(url)) for url in urls]
        common = _environment(formation, folder, database_url if proxy is None else proxy.url, twin_url)
        serve = ["serve", "--no-worker"] if formation.workers else ["serve"]
        members = []
        for number, (url, client) in enumerate(zip(urls, clients, strict=True), 1):
            env = {**common, "FLUXHOOK_PORT": url.rpartition(":")[2], "FLUXHOOK_PUBLIC_URL": url}
            members.append(Member(serve, env, folder / f"api-{number}.log", api=client))
        for number in range(formation.workers):
            log = folder / f"worker-{number + 1}.log"
            # Callbacks for tasks of a worker go to one of the APIs.
            env = {**common, "FLUXHOOK_PUBLIC_URL": urls[number % len(urls)]}
            members.append(Member(["work", "--heartbeat", str(log.with_suffix(".heartbeat"))], env, log))
        yield Service(Fleet(members, server), clients, database_url, proxy)


def _client(url: str) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    # Unbounded, because the pool does not always get back connections that break during a kill.
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(base_url=url, headers=headers, timeout=60, limits=limits, trust_env=False)


@asynccontextmanager
async def _database(formation: Formation) -> AsyncGenerator[tuple[str, Server | None]]:
    """Yield the address of an empty database and its server; both are empty for SQLite in DATA_DIR."""
    if formation.database == "sqlite":
        yield "", None
        return
    with start_postgres(durable=True) as postgres:
        if isinstance(postgres, str):
            sys.exit(postgres)
        name = f"proof_{uuid4().hex}"
        try:
            yield await postgres.create(name), postgres.process
        finally:
            await postgres.drop(name)


def _environment(formation: Formation, folder: Path, database_url: str, twin_url: str) -> dict[str, str]:
    """Return the settings of all processes. They share DATA_DIR, as with compose."""
    return {
        **(_several_accounts(formation.accounts, folder, twin_url) if formation.accounts > 1 else {}),
        "FLUXHOOK_DATABASE_URL": database_url,
        "FLUXHOOK_DATA_DIR": str(folder / "data"),
        "FLUXHOOK_HOST": "127.0.0.1",
        "FLUXHOOK_BFL_BASE_URL": twin_url,
        "FLUXHOOK_BFL_API_KEY": "a-provider-key",
        "FLUXHOOK_ADMIN_KEY": ADMIN_KEY,
        "FLUXHOOK_SECRET_KEYS": RING_KEY,
        "FLUXHOOK_STATEMENT_SECONDS": str(formation.statement_s),
        "FLUXHOOK_HOLD_SECONDS": "" if formation.hold_s is None else str(formation.hold_s),
    }


def _several_accounts(count: int, folder: Path, twin_url: str) -> dict[str, str]:
    """Write the configuration file with these accounts. Return the settings that name it and the keys."""
    names = [f"account-{number}" for number in range(1, count + 1)]
    tables = (f'[[accounts]]\nname = "{name}"\nbase_url = "{twin_url}"\nkey_env = "KEY_OF_{name}"\n' for name in names)
    file = folder / "fluxhook.toml"
    file.write_text("\n".join(tables))
    return {"FLUXHOOK_CONFIG": str(file), **{f"KEY_OF_{name}": f"the-key-of-{name}" for name in names}}
