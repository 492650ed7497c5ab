"""The ways that are known out of a service like ours: for addresses of webhooks and of input images, nothing gets out.

Names are looked up in a book of this file; addresses in every notation are read by the C library, as in production.
"""

import asyncio
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from app.security import ssrf
from app.security.http_clients import guarded_client
from tests.receivers import ended, only_delivery
from tests.world import World, open_world

PUBLIC, METADATA = "93.184.216.34", "169.254.169.254"
UNREACHABLE = "its URL cannot be reached"
NO_USERINFO = "its URL must not contain a user name or a password"
BOOK = {
    "app.example.com": [PUBLIC],
    "localhost": ["127.0.0.1", "::1"],
    "localhost.": ["127.0.0.1"],
    "intranet.example.com": ["10.1.2.3"],
    "mapped.example.com": ["::ffff:10.1.2.3"],
    "half.example.com": [PUBLIC, METADATA],
    "metadata.google.internal": [METADATA],
    "metadata.google.internal.": [METADATA],
    "127.0.0.1.nip.example.com": ["127.0.0.1"],
    "xn--lcalhost-bya.example.com": ["127.0.0.1"],
}
WAYS = {
    "loopback": "127.0.0.1",
    "metadata": METADATA,
    "decimal": "2130706433",
    "decimal metadata": "2852039166",
    "octal": "0177.0.0.1",
    "octal in one": "017700000001",
    "hex": "0x7f.0x0.0x0.0x1",
    "hex in one": "0x7f000001",
    "hex metadata": "0xa9fea9fe",
    "mixed": "0x7f.0.0.01",
    "short": "127.1",
    "shorter": "0",
    "padded": "127.000.000.001",
    "full width": "\uff11\uff12\uff17.0.0.1",
    "circled": "\u24db\u24de\u24d2\u24d0\u24db\u24d7\u24de\u24e2\u24e3",
    "ideographic dots": "127\u30020\u30020\u30021",
    "percent": "%31%32%37.0.0.1",
    "trailing dot": "127.0.0.1.",
    "name": "localhost",
    "name, trailing dot": "localhost.",
    "name in capitals": "LOCALHOST",
    "v6 loopback": "[::1]",
    "v6 unspecified": "[::]",
    "v6 in full": "[0000:0000:0000:0000:0000:0000:0000:0001]",
    "v6 link-local": "[fe80::1]",
    "v6 zone": "[fe80::1%25eth0]",
    "v6 unique local": "[fd00:ec2::254]",
    "mapped": "[::ffff:127.0.0.1]",
    "mapped in hex": "[::ffff:a9fe:a9fe]",
    "compatible": "[::127.0.0.1]",
    "nat64": "[64:ff9b::169.254.169.254]",
    "local nat64": "[64:ff9b:1::a9fe:a9fe]",
    "6to4": "[2002:7f00:1::]",
    "6to4 metadata": "[2002:a9fe:a9fe::]",
    "teredo": "[2001:0:4136:e378:8000:63bf:80ff:fffe]",
    "userinfo": f"app.example.com@{METADATA}",
    "userinfo and port": f"app.example.com:443@{METADATA}",
    "backslash": f"app.example.com\\@{METADATA}",
    "fragment": f"{METADATA}#@app.example.com",
    "private name": "intranet.example.com",
    "private name, mapped": "mapped.example.com",
    "half private": "half.example.com",
    "name of metadata": "metadata.google.internal",
    "name of metadata, dot": "metadata.google.internal.",
    "address in a name": "127.0.0.1.nip.example.com",
    "international": "l\u00f3calhost.example.com",
    "carrier": "100.64.0.1",
    "azure": "168.63.129.16",
    "broadcast": "255.255.255.255",
}


def look_up(host: str, port: int) -> list[str]:
    if host in BOOK:
        return BOOK[host]
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    return [str(entry[4][0]) for entry in found]


@dataclass
class Outside(httpx.AsyncBaseTransport):
    """Every request that leaves the service."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    reached: list[str] = field(default_factory=list)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.reached.append(request.url.host)
        return httpx.Response(self.status, headers=self.headers, stream=httpx.ByteStream(b""))


@pytest.fixture
async def outside() -> Outside:
    return Outside()


@asynccontextmanager
async def guarded_world(
    folder: Path, url: str, outside: Outside, resolve: ssrf.Resolve = look_up
) -> AsyncGenerator[World]:
    async with (
        guarded_client((), outside, resolve=resolve) as web,
        guarded_client((), outside, resolve=resolve, plain_http=False) as webhooks,
        open_world(folder, url, web=web, webhooks=webhooks) as world,
    ):
        yield world


@pytest.fixture
async def world(tmp_path: Path, sqlite_url: str, outside: Outside) -> AsyncGenerator[World]:
    async with guarded_world(tmp_path, sqlite_url, outside) as opened:
        yield opened


async def delivery_to(world: World, url: str) -> tuple[int, str | None, str | None]:
    """What the submitter sees of a webhook: the status of the response, and the state of the delivery."""
    answer = await world.api.post("/v1/tasks", json={"prompt": "a fox", "webhook_url": url})
    if answer.status_code != 202:
        return answer.status_code, None, None
    await world.api.post(f"/v1/tasks/{answer.json()['id']}/cancel")
    await world.work()
    delivery = await only_delivery(world)
    return 202, delivery["state"], delivery["detail"]


async def test_no_known_ssrf_url_reaches_a_host(world: World, outside: Outside) -> None:
    taken = 0  # names, of which only the lookup shows where they lead
    for name, host in WAYS.items():
        url = f"https://{host}/latest/meta-data/"
        hook = await world.api.post("/v1/endpoints/test", json={"webhook_url": url})
        image = await world.api.post("/v1/tasks", json={"prompt": "a fox", "input_image": url})
        assert hook.status_code in {202, 422}, name
        taken += hook.status_code == 202
        assert image.status_code == 422, name
        assert image.json()["fields"]["input_image"] in {UNREACHABLE, NO_USERINFO}, name
    await world.work()
    listed = (await world.api.get("/v1/deliveries", params={"limit": 100})).json()["deliveries"]

    assert len(listed) == taken > 0
    assert {(each["state"], each["detail"]) for each in listed} == {("failed", "the host cannot be reached")}
    assert outside.reached == []


@pytest.mark.parametrize("url", ["https://intranet.example.com/", "https://unknown.example.com/"], ids=str)
async def test_blocked_and_unreachable_hosts_look_alike(world: World, url: str) -> None:
    assert await delivery_to(world, url) == (202, "waiting", "the host cannot be reached")


async def test_a_public_host_is_reached_at_the_checked_address(world: World, outside: Outside) -> None:
    assert await delivery_to(world, "https://app.example.com/") == (202, "delivered", None)
    assert outside.reached == [PUBLIC]


async def test_a_redirect_to_metadata_reaches_nothing(world: World, outside: Outside) -> None:
    outside.status, outside.headers = 302, {"location": f"http://{METADATA}/"}
    image = await world.api.post("/v1/tasks", json={"prompt": "a fox", "input_image": "https://app.example.com/a.png"})

    assert await delivery_to(world, "https://app.example.com/") == (202, "waiting", "answered with HTTP 302")
    assert image.json()["fields"] == {"input_image": UNREACHABLE}
    assert outside.reached == [PUBLIC, PUBLIC]


async def test_a_name_is_not_resolved_again_after_the_check(tmp_path: Path, sqlite_url: str, outside: Outside) -> None:
    answers = [[PUBLIC], ["127.0.0.1"], [METADATA]]
    async with guarded_world(tmp_path, sqlite_url, outside, lambda _host, _port: answers.pop(0)) as world:
        await ended(world, webhook_url="https://rebinding.example.com/")
        await ended(world, webhook_url="https://rebinding.example.com/")

    assert outside.reached == [PUBLIC]
    assert len(answers) == 1


async def test_plain_http_is_limited_to_the_networks_that_the_operator_lists(outside: Outside) -> None:
    async with guarded_client((), outside, resolve=look_up, plain_http=False) as client:
        with pytest.raises(ssrf.EgressRefused, match=r"^the host cannot be reached$"):
            await client.post("http://app.example.com/")
        await client.post("https://app.example.com/")

    assert outside.reached == [PUBLIC]


async def test_slow_lookups_do_not_block_other_threads(outside: Outside) -> None:
    let_go = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hang(_host: str, _port: int) -> list[str]:
        asyncio.run_coroutine_threadsafe(_wait(let_go.wait), loop).result()
        return [PUBLIC]

    async with guarded_client((), outside, resolve=hang) as client:
        waiting = [asyncio.create_task(client.get("https://slow.example.com/")) for _ in range(40)]
        await asyncio.wait_for(asyncio.to_thread(str), 30)
        assert not any(each.done() for each in waiting)
        let_go.set()
        await asyncio.gather(*waiting)


async def _wait(until: Callable[[], Awaitable[object]]) -> None:
    await until()
