"""The generator against servers that answer, refuse, dawdle and hang up; on real sockets, hence a proof."""

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
    """A server that has `answer` reply to the request of each number."""

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


async def sent(port: int, **how: object) -> Load:
    plan = Plan(port, "", "", **{"seconds": 5.0, "grace_s": 1.0, "connections": 4, **how})  # type: ignore[arg-type]
    return await generate(plan, REQUESTS, lambda: None)


async def ok(_: int, writer: asyncio.StreamWriter) -> None:
    writer.write(OK)


async def test_every_request_is_sent_once_and_has_its_status() -> None:
    async def refuse_odd(number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(REFUSED if number % 2 else OK)

    async with serving(refuse_odd) as port:
        load = await sent(port)
    assert load.statuses == [200, 401] * 20
    assert all(latency > 0 for latency in load.latencies)


async def test_an_answer_in_pieces_is_one_answer() -> None:
    async def in_pieces(_: int, writer: asyncio.StreamWriter) -> None:
        for piece in (OK[:5], OK[5:-1], OK[-1:]):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.002)

    async with serving(in_pieces) as port:
        load = await sent(port)
    assert load.statuses == [200] * 40


async def test_a_request_whose_connection_was_lost_was_not_answered_and_the_rest_goes_on() -> None:
    async def hang_up_at_seven(number: int, writer: asyncio.StreamWriter) -> None:
        if number == 7:
            writer.transport.abort()
        else:
            writer.write(OK)

    async with serving(hang_up_at_seven) as port:
        load = await sent(port)
    assert load.statuses == [0 if number == 7 else 200 for number in range(40)]


async def test_each_request_may_have_a_connection_of_its_own() -> None:
    seen = set()

    async def note(_: int, writer: asyncio.StreamWriter) -> None:
        seen.add(writer.get_extra_info("peername"))
        writer.write(OK)

    async with serving(note) as port:
        load = await sent(port, fresh=True)
    assert load.statuses == [200] * 40
    assert len(seen) == 40


async def test_a_request_that_finds_no_connection_counts_from_when_it_was_due() -> None:
    """One connection and an answer after 20 ms: what is due every 2 ms waits ever longer, and none is left out."""

    async def dawdle(_: int, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.02)
        writer.write(OK)

    async with serving(dawdle) as port:
        load = await sent(port, rate=500.0, connections=1)
    assert load.statuses == [200] * 40
    assert load.latencies[-1] > 0.3


async def test_what_was_not_answered_in_the_end_is_there_with_the_time_that_it_waited() -> None:
    async def never(_: int, writer: asyncio.StreamWriter) -> None:
        """Say nothing."""

    async with serving(never) as port:
        load = await sent(port, rate=500.0, connections=1, seconds=0.05)
    assert len(load.statuses) > 1
    assert set(load.statuses) == {0}
    assert min(load.latencies) > 0.9
