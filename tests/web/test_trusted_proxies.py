"""`X-Forwarded-` headers decide the address of a client only if a proxy sends them that the operator has named."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, nullcontext
from ipaddress import ip_network

import httpx
import pytest

from app.cli.process import IpNetwork, server
from app.errors import ConfigurationError
from app.main import create_app
from app.settings import Settings
from tests.sockets import listening, until
from tests.world import ADMIN_KEY, World

CLIENT = "203.0.113.9"


@asynccontextmanager
async def behind(world: World, trusted: Sequence[IpNetwork]) -> AsyncGenerator[httpx.AsyncClient]:
    """Serve the world's resources as `serve` does; yield a client on loopback, as a proxy there is."""
    bound, address = listening()
    running = server(create_app(nullcontext(world.use), with_worker=False), "127.0.0.1", 0, trusted_proxies=trusted)
    task = asyncio.create_task(running.serve([bound]))

    async def has_started() -> bool:
        return running.started

    try:
        await until(has_started)
        async with httpx.AsyncClient(
            base_url=address, headers={"x-key": ADMIN_KEY}, trust_env=False, timeout=60
        ) as client:
            yield client
    finally:
        running.should_exit = True
        await task


async def audited_address(client: httpx.AsyncClient, forwarded_for: str) -> str:
    """Return the address that the audit has for a request with this header."""
    headers = {"x-forwarded-for": forwarded_for, "x-real-ip": "1.2.3.4", "forwarded": "for=1.2.3.4"}
    made = await client.post("/v1/keys", json={"name": "a key"}, headers=headers)
    assert made.status_code == 201, made.text
    return str((await client.get("/v1/audit")).json()["records"][0]["address"])


@pytest.mark.parametrize(
    ("trusted", "forwarded_for", "address"),
    [
        (["127.0.0.1"], CLIENT, CLIENT),
        (["127.0.0.0/8"], CLIENT, CLIENT),
        (["127.0.0.1"], f"1.2.3.4, {CLIENT}", CLIENT),
        (["127.0.0.1", "10.0.0.0/8"], f"{CLIENT}, 10.1.2.3", CLIENT),
        (["10.0.0.0/8"], CLIENT, "127.0.0.1"),
        ([], CLIENT, "127.0.0.1"),
    ],
    ids=["an address", "a network", "a claim of the client", "two proxies", "another proxy", "no proxy"],
)
async def test_the_client_is_the_last_address_that_no_trusted_proxy_has(
    world: World, monkeypatch: pytest.MonkeyPatch, trusted: list[str], forwarded_for: str, address: str
) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")  # a variable of the server's library
    async with behind(world, [ip_network(network) for network in trusted]) as client:
        assert await audited_address(client, forwarded_for) == address


async def test_wrong_keys_are_slowed_for_each_client_of_a_trusted_proxy(world: World) -> None:
    async with behind(world, [ip_network("127.0.0.1")]) as proxy:
        for number in range(20):
            await proxy.get("/v1/tasks", headers={"x-key": f"wrong {number}", "x-forwarded-for": CLIENT})

        async def wrong(address: str) -> float:
            began = asyncio.get_running_loop().time()
            headers = {"x-key": "another wrong one", "x-forwarded-for": address}
            assert (await proxy.get("/v1/tasks", headers=headers)).status_code == 401
            return asyncio.get_running_loop().time() - began

        slowed, other = await wrong(CLIENT), await wrong("203.0.113.10")

    assert slowed >= 1 > other


def test_the_setting_takes_addresses_and_networks() -> None:
    chosen = Settings.from_env({"FLUXHOOK_TRUSTED_PROXIES": "172.18.0.5, fd00::/8"})
    with pytest.raises(ConfigurationError, match="FLUXHOOK_TRUSTED_PROXIES"):
        Settings.from_env({"FLUXHOOK_TRUSTED_PROXIES": "proxy.example.com"})

    assert [str(network) for network in chosen.trusted_proxies] == ["172.18.0.5/32", "fd00::/8"]
    assert [str(network) for network in Settings.from_env({}).trusted_proxies] == ["127.0.0.1/32", "::1/128"]
