"""Limits of connections, over real sockets. Time is spent by the tests: no timer of the server fires."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
from structlog.testing import capture_logs

from app.main import create_app
from app.store import Uploads
from app.telemetry import metrics
from app.telemetry.metrics import Refusal
from app.web.connection import Connection, Phase
from app.web.limits import Limits
from tests.sockets import listening, serving, until
from tests.web.documents import nothing_recorded
from tests.web.routes.test_callback_receiver import Called, submitted
from tests.web.test_protocol import PAGE, ended, raw, sized
from tests.web.test_request_log import requests
from tests.web.test_sockets import JSON, Wire, connect
from tests.web.test_uploads import BODIES
from tests.world import ADMIN_KEY, World

LIMITS = Limits(connections=4, tick_s=10**9)
MB = 1024 * 1024
HEAD = b"GET /healthz HTTP/1.1\r\nhost: gateway\r\n"
POST = b"POST /v1/tasks HTTP/1.1\r\nhost: gateway\r\nx-key: %s\r\n%s\r\n" % (ADMIN_KEY.encode(), JSON.encode())
CHUNKED = b"transfer-encoding: chunked\r\n\r\n"
TWICE = b"GET / HTTP/1.1\r\nhost: gateway\r\n\r\n" * 2


@dataclass
class Service:
    """A running service and its connections."""

    world: World
    address: str
    server: uvicorn.Server

    @property
    def connections(self) -> list[Connection]:
        return [each for each in self.server.server_state.connections if isinstance(each, Connection)]

    def spend(self, seconds: float) -> None:
        """Let this time pass on all connections, second by second."""
        for connection in self.connections:
            for _ in range(round(seconds)):
                connection.spend(1)

    async def connected(self, number: int) -> None:
        """Wait until this many connections are open."""

        async def reached() -> bool:
            return len(self.connections) == number

        await until(reached)

    async def reads(self, condition: Callable[[Connection], bool]) -> None:
        """Wait until the only connection has read so much that the condition holds."""

        async def reached() -> bool:
            return len(self.connections) == 1 and condition(self.connections[0])

        await until(reached)


@pytest.fixture
async def service(world: World) -> AsyncGenerator[Service]:
    async with serve(world) as running:
        yield running


@pytest.fixture
async def large_answers(world: World) -> AsyncGenerator[Service]:
    """A service whose answers have more bytes than the system buffers."""
    bound, address = listening()
    app = Starlette(routes=[Route("/", lambda _: Response(bytes(32 * MB)))])
    async with serving(app, bound, limits=LIMITS) as server:
        yield Service(world, address, server)


@asynccontextmanager
async def serve(world: World, limits: Limits = LIMITS) -> AsyncGenerator[Service]:
    bound, address = listening()
    async with serving(create_app(nullcontext(world.use), with_worker=False), bound, limits=limits) as server:
        yield Service(world, address, server)


def refused(reason: Refusal) -> float:
    return metrics.REGISTRY.get_sample_value("fluxhook_connections_refused_total", {"reason": reason.value}) or 0.0


async def sent(service: Service, data: bytes) -> Wire:
    wire = await connect(service.address)
    await wire.send(data)
    return wire


async def is_cut_with(wire: Wire, status: int) -> bool:
    """Return whether this status is the only answer, and the connection is closed after it."""
    answer = await wire.answer()
    closed = await ended(wire.reader)
    await wire.close()
    return (answer.status, answer.headers["connection"], closed) == (status, "close", True)


# The size of what is not a body


@pytest.mark.parametrize(
    ("data", "status"),
    [
        pytest.param(b"GET /%s HTTP/1.1\r\n\r\n" % (b"a" * 16_384), 414, id="a long address"),
        pytest.param(b"GET /" + b"a" * 200_000, 414, id="an address without an end"),
        pytest.param(HEAD + b"x: %s\r\n\r\n" % (b"a" * 16_384), 431, id="a long header"),
        pytest.param(HEAD + b"x: " + b"a" * 200_000, 431, id="a header without an end"),
        pytest.param(HEAD + b"x" * 200_000, 431, id="the name of a header without an end"),
        pytest.param(HEAD + b"x: y\r\n" * 100 + b"\r\n", 431, id="101 headers"),
        pytest.param(HEAD + b"x: y\r\n" * 100_000, 431, id="headers without an end"),
        pytest.param(b"\r\n" * 100_000, 431, id="empty lines"),
        pytest.param(
            PAGE[:-2] + b"connection: upgrade\r\nupgrade: h2c\r\n" + b"x: y\r\n" * 98 + b"\r\n", 431, id="an upgrade"
        ),
        pytest.param(POST + CHUNKED + b"1;%s" % (b"a" * 200_000), 431, id="a chunk with a long extension"),
        pytest.param(POST + CHUNKED + b"1\r\n{\r\n0\r\n" + b"x: y\r\n" * 100, 431, id="many trailers"),
        pytest.param(POST + CHUNKED + b"1\r\n{\r\n0\r\nx: " + b"a" * 200_000, 431, id="a long trailer"),
    ],
)
@pytest.mark.parametrize("piece", [1000, 10**6])
async def test_a_head_past_the_limit_is_refused(service: Service, data: bytes, status: int, piece: int) -> None:
    before = refused(Refusal.LARGE_HEAD)
    wire = await connect(service.address)
    await wire.send(*(data[start : start + piece] for start in range(0, len(data), piece)))

    assert await is_cut_with(wire, status)
    assert refused(Refusal.LARGE_HEAD) - before == 1
    assert await nothing_recorded(service.world)


async def test_a_client_that_has_sent_megabytes_of_headers_still_reads_the_answer(service: Service) -> None:
    wire = await sent(service, HEAD + b"x: y\r\n" * (4 * MB // 6))

    assert await is_cut_with(wire, 431)


async def test_a_head_just_within_the_limit_is_accepted(service: Service) -> None:
    wire = await sent(service, HEAD + b"x: %s\r\n" % (b"a" * 15_500) + b"y: z\r\n" * 98 + b"\r\n")
    answers = [(await wire.answer()).status]
    await wire.send(PAGE)
    answers.append((await wire.answer()).status)
    await wire.close()

    assert answers == [200, 200]


async def test_a_body_in_chunks_of_one_byte_is_accepted(service: Service) -> None:
    body = b'{"prompt": "%s"}' % (b"x" * 30_000)
    wire = await sent(service, POST + CHUNKED + b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n")

    assert (await wire.answer()).status == 202
    await wire.close()


# Invalid HTTP


@pytest.mark.parametrize("garbage", [b"\0\1\2", b"GET\r\n\r\n", b"x" * 100_000], ids=["bytes", "no address", "letters"])
async def test_requests_before_invalid_http_are_answered_and_nothing_is_logged_as_an_error(
    service: Service, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with capture_logs() as written:
        wire = await sent(service, b"GET /readyz HTTP/1.1\r\nhost: gateway\r\n\r\n" * 2 + garbage)
        answers = [await wire.answer() for _ in range(3)]
        closed = await ended(wire.reader)
        await wire.close()
        await service.connected(0)

    assert [answer.status for answer in answers] == [200, 200, 400]
    assert closed
    assert [(line["log_level"], line["status"]) for line in requests(written)] == [("info", 200)] * 2
    assert len(written) == 2
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


@pytest.mark.parametrize("line", [b"GET /healthz", b"GET /healthz HTTP/0.9", b"GET /healthz HTTP/2.0"])
async def test_a_request_of_another_version_than_1_is_refused(service: Service, line: bytes) -> None:
    wire = await sent(service, line + b"\r\nhost: gateway\r\n\r\n")

    assert (await wire.answer()).status == 400
    await wire.close()


@pytest.mark.parametrize("before", [b"", PAGE], ids=["alone", "pipelined"])
@pytest.mark.parametrize("api", [POST, b"POST /callbacks/{} HTTP/1.1\r\n"], ids=["task", "callback"])
async def test_a_body_that_is_invalid_http_is_refused_without_another_answer(
    service: Service, before: bytes, api: bytes
) -> None:
    wire = await sent(service, before + api + CHUNKED + b"5\r\n{\r\nbroken")
    answers = [(await wire.answer()).status for _ in range(2 if before else 1)]

    assert answers[-1] in {400, 404}
    assert answers[:-1] == [200] * bool(before)
    assert await ended(wire.reader)
    await wire.close()
    assert await nothing_recorded(service.world)


async def test_requests_beyond_a_number_that_wait_on_one_connection_are_refused(service: Service) -> None:
    wire = await sent(service, PAGE * 5000)
    statuses = [(await wire.answer()).status for _ in range(34)]

    assert statuses == [200] * 33 + [503]
    assert await ended(wire.reader)
    await wire.close()


# Time


@pytest.mark.parametrize("start", [b"", b"\r\n", PAGE], ids=["nothing", "an empty line", "a request"])
async def test_an_idle_connection_is_closed_without_a_word(service: Service, start: bytes) -> None:
    wire = await sent(service, start)
    if start == PAGE:
        assert (await wire.answer()).status == 200
    else:
        await service.reads(lambda connection: connection._other_bytes == len(start))
    service.spend(LIMITS.head_s - 1)
    assert len(service.connections) == 1
    service.spend(LIMITS.idle_s + 2)

    assert await ended(wire.reader)
    await wire.close()


async def test_a_slow_head_is_refused_however_steadily_it_comes(service: Service) -> None:
    wire = await sent(service, PAGE)
    assert (await wire.answer()).status == 200
    await wire.send(HEAD + b"x: y\r\n")
    await service.reads(lambda connection: connection._phase is Phase.HEAD)
    for number in range(round(LIMITS.head_s) + 1):
        await service.reads(lambda connection, number=number: len(connection.headers) > number)  # type: ignore[misc]
        service.spend(1)
        await wire.send(b"x: y\r\n")

    assert await is_cut_with(wire, 408)


async def test_a_body_that_stops_is_refused(service: Service) -> None:
    before = refused(Refusal.SLOW_BODY)
    wire = await sent(service, POST + b"content-length: 1000\r\n\r\n{")
    await service.reads(lambda connection: connection.cycle is not None)
    service.spend(LIMITS.stall_s - 1)
    assert len(service.connections) == 1
    service.spend(2)

    assert await is_cut_with(wire, 408)
    assert refused(Refusal.SLOW_BODY) - before == 1
    assert await nothing_recorded(service.world)


@pytest.mark.parametrize(("rate", "status"), [(2 * LIMITS.bytes_per_s, 202), (LIMITS.bytes_per_s // 4, 408)])
async def test_a_body_may_be_slow_but_not_slower_than_the_rate(service: Service, rate: int, status: int) -> None:
    body = b'{"prompt": "a red fox"' + b" " * (rate * 60) + b"}"
    wire = await sent(service, POST + b"content-length: %d\r\n\r\n" % len(body))
    for start in range(0, len(body), rate):
        await wire.send(body[start : start + rate])
        received = min(len(body), start + rate)
        await service.reads(
            lambda connection, received=received: connection._refusal is not None or connection._body_bytes >= received  # type: ignore[misc]
        )
        service.spend(1)

    answer = await wire.answer()
    await wire.close()
    assert answer.status == status


async def test_a_body_after_an_early_answer_must_end_soon(service: Service) -> None:
    wire = await sent(service, b"POST /v1/tasks HTTP/1.1\r\nhost: gateway\r\n" + CHUNKED)
    assert (await wire.answer()).status == 401
    for _ in range(round(LIMITS.stall_s) + 1):
        read = sum(connection._body_bytes for connection in service.connections)
        await wire.send(b"%x\r\n%s\r\n" % (MB, bytes(MB)))
        await service.reads(lambda connection, read=read: connection._body_bytes >= read + MB)  # type: ignore[misc]
        service.spend(1)

    assert await ended(wire.reader)
    wire.writer.transport.abort()


@pytest.mark.parametrize("path", ["/v1/events?after=start", "/v1/tasks/{}?wait"], ids=["a stream", "a wait"])
async def test_a_client_that_waits_for_the_service_is_not_cut(service: Service, path: str) -> None:
    task_id = await service.world.post()
    wire = await connect(service.address)
    await wire.ask("GET", path.format(task_id), "prefer: wait=60", "accept: text/event-stream")
    await service.reads(lambda connection: connection.cycle is not None)
    service.spend(3600)
    await service.world.api.post(f"/v1/tasks/{task_id}/cancel")

    head = await asyncio.wait_for(wire.reader.readuntil(b"\r\n\r\n"), 120)
    assert head.startswith(b"HTTP/1.1 200")
    assert b"cancelled" in await asyncio.wait_for(wire.reader.readuntil(b"cancelled"), 120)
    await wire.close()


async def test_an_upload_that_waits_for_a_place_is_not_cut(world: World, tmp_path: Path) -> None:
    world.use = replace(world.use, uploads=Uploads(tmp_path, world.use.disk, at_once=1, wait_s=3600))
    header, body = BODIES["JSON"]
    head = POST.replace(JSON.encode(), header.encode()) + b"content-length: %d\r\n\r\n" % len(body)
    async with serve(world) as service, world.use.uploads.place(MB):
        wire = await sent(service, head + body[:250_000])
        await service.reads(lambda connection: connection.flow.read_paused)
        service.spend(3600)
        assert len(service.connections) == 1
    await wire.close()


async def test_a_client_that_does_not_read_its_answers_is_cut(large_answers: Service) -> None:
    wire = await sent(large_answers, TWICE)
    await large_answers.reads(lambda connection: connection.flow.write_paused)
    large_answers.spend(10 * LIMITS.stall_s - 1)
    assert len(large_answers.connections) == 1
    large_answers.spend(3)

    await large_answers.connected(0)
    wire.writer.transport.abort()


async def test_a_client_that_reads_slowly_is_not_cut(large_answers: Service) -> None:
    wire = await sent(large_answers, TWICE)
    await large_answers.reads(lambda connection: connection.flow.write_paused)
    for _ in range(60):
        large_answers.spend(10)
        await wire.reader.readexactly(MB)
    await wire.close()


# Callbacks


async def test_a_slow_callback_delays_no_other_and_is_refused(world: World) -> None:
    called = await submitted(world)
    async with serve(world) as service:
        slow = await sent(service, raw(called, sized(called))[:-5])
        await service.reads(lambda connection: connection.cycle is not None)
        quick = await sent(service, raw(called, sized(called)))
        answer = await quick.answer()
        await quick.close()
        await service.connected(1)
        with capture_logs() as written:
            service.spend(LIMITS.stall_s + 1)
            assert await is_cut_with(slow, 408)
            await service.connected(0)

    assert answer.status == 200
    assert [line["status"] for line in requests(written)] == [400]
    assert await called.verdicts() == [("signed", "moved", 1)]


async def test_a_callback_before_invalid_http_is_stored_and_answered(world: World) -> None:
    called: Called = await submitted(world)
    async with serve(world) as service:
        wire = await sent(service, raw(called, sized(called)) + b"\0garbage")
        answers = [(await wire.answer()).status for _ in range(2)]
        closed = await ended(wire.reader)
        await wire.close()

    assert (answers, closed) == ([200, 400], True)
    assert await called.verdicts() == [("signed", "moved", 1)]


# The number of connections


async def test_a_new_connection_ends_the_one_that_has_waited_longest(service: Service) -> None:
    before = refused(Refusal.TOO_MANY)
    waiting = [await sent(service, HEAD) for _ in range(LIMITS.connections)]
    await service.connected(LIMITS.connections)
    longest = waiting[1].writer.get_extra_info("sockname")
    (slow,) = [each for each in service.connections if each.client == longest]
    slow.spend(1)
    honest = await sent(service, PAGE)

    assert (await honest.answer()).status == 200
    assert await ended_or_reset(waiting[1])
    await waiting[0].send(b"\r\n")
    assert (await waiting[0].answer()).status == 200
    assert refused(Refusal.TOO_MANY) - before == 1
    for wire in (*waiting, honest):
        wire.writer.transport.abort()


async def test_a_connection_that_does_not_read_is_ended_for_a_new_one_too(large_answers: Service) -> None:
    deaf = [await sent(large_answers, TWICE) for _ in range(LIMITS.connections)]

    async def none_reads() -> bool:
        return sum(each.flow.write_paused for each in large_answers.connections) == len(deaf)

    await until(none_reads)
    large_answers.spend(2)
    honest = await sent(large_answers, PAGE)

    assert (await honest.answer()).status == 404
    for wire in (*deaf, honest):
        wire.writer.transport.abort()


async def test_a_connection_is_refused_while_all_others_wait_for_the_service(service: Service) -> None:
    task_id = await service.world.post()
    waiting = [await connect(service.address) for _ in range(LIMITS.connections)]
    for wire in waiting:
        await wire.ask("GET", f"/v1/tasks/{task_id}", "prefer: wait=60")

    async def all_wait() -> bool:
        return sum(each.time_left is None for each in service.connections) == LIMITS.connections

    await until(all_wait)
    late = await sent(service, PAGE)
    refusal = await late.answer()
    await late.close()
    await service.connected(LIMITS.connections)
    await service.world.api.post(f"/v1/tasks/{task_id}/cancel")
    answers = [(await wire.answer()).status for wire in waiting]
    again = await sent(service, PAGE)

    assert (refusal.status, int(refusal.headers["retry-after"]) > 0) == (503, True)
    assert answers == [200] * LIMITS.connections
    assert (await again.answer()).status == 200
    for wire in (*waiting, again):
        wire.writer.transport.abort()


async def ended_or_reset(wire: Wire) -> bool:
    try:
        return await ended(wire.reader)
    except ConnectionResetError:
        return True


async def test_the_server_s_own_clock_ends_slow_connections(world: World) -> None:
    async with serve(world, Limits(head_s=0.02, tick_s=0.01)) as service:
        wire = await sent(service, HEAD)

        assert await is_cut_with(wire, 408)
