"""One delivery attempt over real sockets: every behaviour of a receiver is recorded, with bounded cost."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest

from app.security.http_clients import guarded_client
from tests.calling import small
from tests.receivers import deliveries as listed
from tests.receivers import ended, only_delivery
from tests.sockets import until
from tests.worker.test_loop import running
from tests.world import World, open_world

LOOPBACK, FORMERLY = (ip_network("127.0.0.0/8"),), (ip_network("10.0.0.0/8"),)
Answering = Callable[["Sockets", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
async def world(tmp_path: Path, sqlite_url: str) -> AsyncGenerator[World]:
    """A world whose operator allows loopback, and allowed more when the URLs were checked."""
    async with (
        guarded_client(LOOPBACK, plain_http=False) as webhooks,
        open_world(tmp_path, sqlite_url, webhooks=webhooks, egress_allow=(*LOOPBACK, *FORMERLY)) as opened,
    ):
        yield opened


@dataclass
class Sockets:
    """A receiver that writes arbitrary bytes."""

    answering: Answering
    url: str = ""
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    sent: int = 0
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            self.requests.append(head + await reader.readexactly(size))
            await self.answering(self, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.over.set()
            writer.close()


@asynccontextmanager
async def receiving(answering: Answering) -> AsyncGenerator[Sockets]:
    made = Sockets(answering)
    server = await asyncio.start_server(made.meet, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
    try:
        yield made
    finally:
        server.close()


def writing(*pieces: bytes) -> Answering:
    async def answer(_: Sockets, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()

    return answer


async def silence(_: Sockets, reader: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    await reader.read()


async def dripping(_: Sockets, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while not writer.is_closing():
        writer.write(b"x-drip: 1\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)


async def a_gigabyte(made: Sockets, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n")
    while made.sent < 1_073_741_824:
        writer.write(b"x" * 65_536)
        await writer.drain()
        made.sent += 65_536


@pytest.mark.parametrize(
    ("answering", "error"),
    [
        (silence, "timeout"),
        (dripping, "timeout"),
        (writing(), "broken"),
        (writing(b"HTTP/1.1 200"), "broken"),
        (writing(b"what do you want?\r\n\r\n"), "broken"),
    ],
    ids=["says nothing", "drips", "closes", "closes in its first line", "speaks no HTTP"],
)
async def test_a_delivery_without_an_answer_is_retried(world: World, answering: Answering, error: str) -> None:
    if error == "timeout":
        world.use = replace(world.use, webhook_deadline=timedelta(seconds=0.2))
    async with receiving(answering) as there:
        await ended(world, webhook_url=there.url)
    delivery = await only_delivery(world)
    (attempt,) = delivery["attempts"]

    assert (delivery["state"], attempt["error"], attempt["http_status"]) == ("waiting", error, None)
    assert attempt["latency_ms"] is not None


async def test_an_unreachable_receiver_looks_like_a_blocked_one(world: World) -> None:
    async with receiving(silence) as there:
        pass
    await ended(world, webhook_url=there.url)
    await ended(world, webhook_url="http://10.1.2.3/")
    await ended(world, webhook_url="https://nobody.invalid/")
    seen = []
    for each in await listed(world):
        detail = (await world.api.get(f"/v1/deliveries/{each['id']}")).json()
        seen.append((each["state"], each["detail"], [{**one, "at": None} for one in detail["attempts"]]))

    assert seen[0][2][0]["error"] == "unreachable"
    assert seen[0] == seen[1] == seen[2]


async def test_an_incomplete_answer_counts_by_its_status(world: World) -> None:
    async with receiving(writing(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n", b"so far")) as there:
        await ended(world, webhook_url=there.url)
    delivery = await only_delivery(world)

    assert delivery["state"] == "delivered"
    assert delivery["attempts"][0]["answer"] == "so far"


async def test_four_kilobytes_of_a_large_answer_are_read_and_the_connection_is_closed(world: World) -> None:
    async with receiving(a_gigabyte) as there:
        await ended(world, webhook_url=there.url)
        await asyncio.wait_for(there.over.wait(), 30)
    delivery = await only_delivery(world)

    assert delivery["state"] == "delivered"
    assert len(delivery["attempts"][0]["answer"]) == 4096
    assert there.sent < 16 * 1024 * 1024  # what the kernel takes for a reader that is gone


async def test_no_redirect_is_followed(world: World) -> None:
    async with receiving(writing(b"HTTP/1.1 204 No Content\r\n\r\n")) as behind:
        head = f"HTTP/1.1 307 Temporary Redirect\r\nlocation: {behind.url}\r\ncontent-length: 0\r\n\r\n"
        async with receiving(writing(head.encode())) as there:
            await ended(world, webhook_url=there.url)

    assert (await only_delivery(world))["detail"] == "answered with HTTP 307"
    assert (len(there.requests), len(behind.requests)) == (1, 0)


async def test_each_delivery_uses_a_new_connection(world: World) -> None:
    async with receiving(writing(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")) as there:
        await ended(world, webhook_url=there.url)
        await ended(world, webhook_url=there.url)

    assert (len(there.requests), there.connections) == (2, 2)


async def test_proxy_variables_are_ignored(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    async with receiving(writing(b"HTTP/1.1 200 OK\r\n\r\n")) as there:
        await ended(world, webhook_url=there.url)

    assert (await only_delivery(world))["state"] == "delivered"


async def test_a_response_that_is_not_text_is_shown(world: World) -> None:
    async with receiving(writing(b"HTTP/1.1 500 Broken\r\n\r\n\xff\0\xfe")) as there:
        await ended(world, webhook_url=there.url)

    assert (await only_delivery(world))["attempts"][0]["answer"] == "\ufffd\0\ufffd"


async def test_a_dead_endpoint_delays_neither_the_others_nor_the_images(world: World) -> None:
    small(world)
    world.use = replace(world.use, webhook_deadline=timedelta(minutes=5))
    async with receiving(silence) as dead, receiving(writing(b"HTTP/1.1 204 No Content\r\n\r\n")) as alive:
        for url in [*[f"{dead.url}/{number}" for number in range(7)], *[dead.url] * 5, *[alive.url] * 5]:
            task_id = await world.post(webhook_url=url)
            await world.api.post(f"/v1/tasks/{task_id}/cancel")
        collected = await world.post()

        async def all_but_the_dead() -> bool:
            world.clock.advance(0.5)
            await world.twin.tick()
            return len(alive.requests) == 5 and (await world.task(collected))["status"] == "stored"

        async with running(world.use, grace=0):
            await until(all_but_the_dead)
            waiting = await listed(world, state="waiting", limit=100)

    assert len(waiting) == 12
    assert {each["tries"] for each in waiting} == {0}


async def test_over_plain_http_the_secret_stays_at_home(world: World) -> None:
    async with receiving(writing(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")) as there:
        await ended(world, webhook_url=there.url, webhook_secret="their own secret")
    (request,) = there.requests

    assert b"their own secret" not in request
    assert b"x-bfl-signature: sha256=" in request.lower()
