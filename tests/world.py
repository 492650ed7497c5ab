"""A world for tests: the service, the provider's twin, one clock, and HTTP between them in memory."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from app import callback
from app.catalog import shipped_catalog
from app.db import Connection
from app.db.engine.batches import BOUNDS, Bounds
from app.db.engine.database import Database, open_database
from app.db.tables import api_keys, provider_accounts
from app.db.tables.api_keys import NewApiKey
from app.db.tables.provider_accounts import ConfiguredAccount
from app.main import create_app
from app.provider import Account, Accounts, Bfl, Gptproto, Provider
from app.provider.bfl import SPEC
from app.resources import Resources
from app.security.http_clients import guarded_client, provider_client
from app.security.keyring import KeyRing
from app.store import DiskReserve, FolderStore, Uploads
from app.twin import Rules, Twin, create_twin_app
from app.web.auth import digest_of
from app.web.feed import Feed
from app.worker import loop
from tests.downloads import downloads_from
from tests.postgres import keep_time

TWIN, GATEWAY = "http://twin", "http://gateway"
_MAX_JOBS = 5000  # more jobs than any test has due at once
ADMIN_KEY = "an-admin-key-for-tests-only"
EVIDENCE_WINDOW = timedelta(minutes=10) + SPEC.callback_window
RING_KEY = "a-ring-key-for-tests-only-0123456789"


@dataclass
class FrozenClock:
    """Stands still until a test advances it."""

    at: datetime = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.at

    def advance(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


class Network(httpx.AsyncBaseTransport):
    """ASGI applications by host name; other hosts are unreachable."""

    def __init__(self) -> None:
        self.hosts: dict[str, httpx.AsyncBaseTransport] = {}

    def add(self, host: str, app: Any) -> None:
        self.hosts[host] = httpx.ASGITransport(app)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        host = self.hosts.get(request.url.host)
        if host is None:
            raise httpx.ConnectError("no such host", request=request)
        return await host.handle_async_request(request)


@dataclass
class World:
    """The parts of a world; `api` calls the service with the admin key."""

    clock: FrozenClock
    network: Network
    twin: Twin
    use: Resources
    api: httpx.AsyncClient
    outsider: httpx.AsyncClient = field(repr=False)  # calls the service without a key
    feed: Feed = field(repr=False)
    twins: dict[str, Twin] = field(default_factory=dict)  # by the name of the account, if there are several

    async def post(self, **params: Any) -> str:
        """Submit a task and return its id."""
        answer = await self.api.post("/v1/tasks", json={"prompt": "a red fox", **params})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    async def task(self, task_id: str) -> dict[str, Any]:
        answer = await self.api.get(f"/v1/tasks/{task_id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def timeline(self, task_id: str, event: str) -> list[dict[str, Any]]:
        """The entries of one kind in a task's timeline."""
        answer = await self.api.get(f"/v1/tasks/{task_id}/timeline")
        assert answer.status_code == 200, answer.text
        return [entry for entry in answer.json()["entries"] if entry["event"] == event]

    async def work(self) -> None:
        """Run all due jobs, including those that they enqueue for now."""
        for _ in range(_MAX_JOBS):
            if not await loop.run_once(self.use):
                return
        raise AssertionError("jobs never end; does the database use the test's clock?")

    async def go_on(self, seconds: float, step: float = 1.0) -> None:
        """Advance the clock in steps; after each, the provider acts and all due jobs run."""
        for _ in range(max(1, round(seconds / step))):
            self.clock.advance(step)
            for twin in self.twins.values() or [self.twin]:
                await twin.tick()
            await self.work()

    def ledger(self) -> dict[str, Any]:
        """Return the provider's ledger."""
        return self.twin.ledger()


def with_database(use: Resources, db: Database) -> Resources:
    """Return the resources with another database, which also stores the callbacks."""
    return replace(use, db=db, callbacks=db.batcher(callback.store_batch))


def one_account(provider: Provider, *others: Provider, url: str = TWIN) -> Accounts:
    """Return one account, as the environment alone configures it, and accounts for the other providers after it."""
    limits = {**provider.spec.slots, **shipped_catalog().slots}
    names = ("account", *(f"account-{number}" for number in range(2, len(others) + 2)))
    in_order = [
        Account(name, name, own, own.spec, url, limits) for name, own in zip(names, (provider, *others), strict=True)
    ]
    return Accounts(tuple(in_order), named=bool(others))


def origin_of(name: str) -> str:
    return f"http://twin-{name}"


def named_account(name: str, http: httpx.AsyncClient, **changes: Any) -> Account:
    """Return an account of the configuration file, whose provider is the twin with its name."""
    provider: Provider = Bfl(http, origin_of(name), f"key-of-{name}")
    limits = {"account": 24, **shipped_catalog().slots, **changes.pop("limits", {})}
    return Account(f"acct:{name}", name, provider, provider.spec, origin_of(name), limits, **changes)


def with_provider(use: Resources, provider: Provider | None) -> Resources:
    """Return the resources with another provider behind the only account."""
    (account,) = use.accounts
    spec = provider.spec if provider is not None else account.spec
    return replace(use, accounts=Accounts((replace(account, provider=provider, spec=spec),)))


def provider_of(use: Resources) -> Provider:
    """Return the provider of the only account."""
    (account,) = use.accounts
    assert account.provider is not None
    return account.provider


def configure(connection: Connection, use: Resources) -> None:
    """Record the accounts, as each start of the service does."""
    provider_accounts.configure(
        connection,
        [
            ConfiguredAccount(
                account.id,
                account.spec.name,
                {**account.limits, **use.catalog.slots},
                account.region,
                None if account.models is None else sorted(account.models),
            )
            for account in use.accounts
        ],
    )


@asynccontextmanager
async def open_world(
    folder: Path,
    database_url: str,
    *,
    provider: str = "bfl",
    rules: Rules | None = None,
    bounds: Bounds = BOUNDS,
    several: Mapping[str, Mapping[str, Any]] | None = None,
    **changes: Any,
) -> AsyncGenerator[World]:
    """Open a world on this database; `changes` replace fields of its Resources.

    `several`: accounts by name, each with a twin of its own, and the fields of it that differ from the defaults.
    """
    clock, network = FrozenClock(), Network()
    async with (
        httpx.AsyncClient(transport=network) as twin_sends,
        provider_client(network) as provider_http,
        downloads_from(network, TWIN, *map(origin_of, several or ())) as results,
        guarded_client((), network) as web,
        guarded_client((), network, plain_http=False) as webhooks,
        open_database(database_url, bounds) as db,
    ):
        keep_time(db, clock)
        twin = Twin(rules or Rules(megapixels=0.05), now=clock, send=twin_sends)
        network.add("twin", create_twin_app(twin, running=False))
        twins = {name: Twin(rules or Rules(megapixels=0.05), now=clock, send=twin_sends) for name in several or ()}
        for name, own in twins.items():
            network.add(f"twin-{name}", create_twin_app(own, running=False))
        adapter = Bfl if provider == "bfl" else Gptproto
        built = adapter(provider_http, TWIN, "a-provider-key")
        disk = DiskReserve({"DATA_DIR": folder}, 0)
        use = Resources(
            db=db,
            callbacks=db.batcher(callback.store_batch),
            store=FolderStore(folder / "images"),
            keys=KeyRing((RING_KEY,)),
            now=clock,
            accounts=one_account(built),
            web=web,
            webhooks=webhooks,
            results=results,
            catalog=changes.get("catalog") or shipped_catalog(),
            result_hosts=(),
            public_url=GATEWAY,
            evidence_window=EVIDENCE_WINDOW,
            trust_shared_secret=True,
            scratch=folder,
            uploads=Uploads(folder, disk),
            disk=disk,
        )
        if several:
            named = (named_account(name, provider_http, **account) for name, account in several.items())
            use = replace(use, accounts=Accounts(tuple(named), named=True))
        use = replace(use, **changes)
        await use.db.write(configure, use)
        admin = NewApiKey("key_admin", "admin", digest_of(ADMIN_KEY), ["*"], clock())
        await use.db.write(lambda connection: api_keys.put(connection, admin))
        app = create_app(nullcontext(use), use.catalog, with_worker=False)
        network.add("gateway", app)
        transport = network.hosts["gateway"]
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(
                transport=transport, base_url=GATEWAY, headers={"authorization": f"Bearer {ADMIN_KEY}"}
            ) as api,
            httpx.AsyncClient(transport=transport, base_url=GATEWAY) as outsider,
        ):
            yield World(clock, network, twin, use, api, outsider, app.state.feed, twins)
