"""The load generator against servers that answer, refuse, delay and disconnect, on real sockets."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from benchmarks.connection import Load
from benchmarks.load import generate
from benchmarks.plan import Plan
from benchmarks.wire import request

pytestmark = pytest.mark.proof

REQUESTS = [request("POST", f"/{number}", {}, b"{}") for number in range(40)]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
REFUSED = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n\r\n{}"


@asynccontextmanager
async def serving(answer: Callable[[int, asyncio.StreamWriter], Awaitable[None]]) -> AsyncGenerator[int]:
    """Serve with `answer`, which gets the number of each request; yield the port."""

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            await reader.readexactly(2)
            await answer(int(head.split()[1][1:]), writer)
            if writer.is_closing():
                return

    conversations: list[asyncio.Task[None] | None] = []

    async def until_gone(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversations.append(asyncio.current_task())
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await converse(reader, writer)
        writer.close()

    server = await asyncio.start_server(until_gone, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
    await asyncio.gather(*filter(None, conversations))


async def sent(port: int, **fields: object) -> Load:
    plan = Plan(port, "", "", **{"seconds": 60.0, "grace_s": 1.0, "connections": 4, **fields})  # type: ignore[arg-type]
    return await generate(plan, REQUESTS, lambda: None)


async def ok(_: int, writer: asyncio.StreamWriter) -> None:
    writer.write(OK)


async def test_every_request_is_sent_once_and_its_status_is_recorded() -> None:
    async def refuse_odd(number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(REFUSED if number % 2 else OK)

    async with serving(refuse_odd) as port:
        load = await sent(port)
    assert load.statuses == [200, 401] * 20
    assert all(latency > 0 for latency in load.latencies)


async def test_an_answer_in_several_pieces_is_one_answer() -> None:
    async def in_pieces(_: int, writer: asyncio.StreamWriter) -> None:
        for piece in (OK[:5], OK[5:-1], OK[-1:]):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.002)

    async with serving(in_pieces) as port:
        load = await sent(port)
    assert load.statuses == [200] * 40


async def test_a_request_whose_connection_is_lost_is_unanswered_and_the_others_continue() -> None:
    async def hang_up_at_seven(number: int, writer: asyncio.StreamWriter) -> None:
        if number == 7:
            writer.transport.abort()
        else:
            writer.write(OK)

    async with serving(hang_up_at_seven) as port:
        load = await sent(port)
    assert load.statuses == [0 if number == 7 else 200 for number in range(40)]


async def test_each_request_can_use_a_new_connection() -> None:
    connections = set()

    async def note(_: int, writer: asyncio.StreamWriter) -> None:
        connections.add(writer.get_extra_info("peername"))
        writer.write(OK)

    async with serving(note) as port:
        load = await sent(port, fresh=True)
    assert load.statuses == [200] * 40
    assert len(connections) == 40


async def test_latency_includes_the_wait_for_a_free_connection() -> None:
    """One connection with answers after 20 ms and a request every 2 ms: each waits longer, and none is dropped."""

    async def answer_late(_: int, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.02)
        writer.write(OK)

    async with serving(answer_late) as port:
        load = await sent(port, rate=500.0, connections=1)
    assert load.statuses == [200] * 40
    assert load.latencies[-1] > 0.3


async def test_unanswered_requests_are_recorded_with_the_time_that_they_waited() -> None:
    async def never(_: int, writer: asyncio.StreamWriter) -> None:
        """Send no answer."""

    async with serving(never) as port:
        load = await sent(port, rate=500.0, connections=1, seconds=0.05)
    assert len(load.statuses) > 1
    assert set(load.statuses) == {0}
    assert min(load.latencies) > 0.9
