"""The fast path of callbacks over a real socket: requests in every framing get the answers of the route."""

import asyncio
from contextlib import nullcontext

import pytest
from structlog.testing import capture_logs

from app.main import create_app
from app.web.protocol import Protocol
from tests.databases import Gate
from tests.sockets import listening, serving, until
from tests.web.routes.test_callback_receiver import Called, submitted
from tests.web.test_request_log import requests
from tests.web.test_sockets import connect
from tests.world import ADMIN_KEY, World

WRONG = (b"x-bfl-signature", b"sha256=" + b"0" * 64)
OFFER = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk")  # Java's, and curl's
HANDSHAKE = (b"upgrade: websocket", b"connection: keep-alive, upgrade", b"sec-websocket-version: 13")
PAGE = b"GET /healthz HTTP/1.1\r\nhost: gateway\r\n\r\n"


@pytest.fixture
async def called(world: World) -> Called:
    return await submitted(world)


def raw(called: Called, *headers: bytes, first: bytes | None = None, body: bytes | None = None) -> bytes:
    """Return the bytes of a signed callback; `headers` contain the length of its body."""
    content = called.body()
    name, value = called.signature(content)
    lines = [first or b"POST %s HTTP/1.1" % called.path.encode(), b"host: gateway", name + b": " + value, *headers]
    return b"\r\n".join([*lines, b"", b""]) + (content if body is None else body)


def sized(called: Called) -> bytes:
    return b"Content-Length: %d" % len(called.body())


def chunked(content: bytes) -> bytes:
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content)


async def test_a_callback_is_accepted_in_every_framing(called: Called, address: str) -> None:
    content, path = called.body(), called.path.encode()
    forms = {
        "usual": raw(called, sized(called)),
        "loud": raw(called, b"CONTENT-LENGTH: %d" % len(content), b"X-ODD: \xff"),
        "chunked": raw(called, b"transfer-encoding: chunked", body=chunked(content)),
        "with a question": raw(called, sized(called), first=b"POST %s?a=b HTTP/1.1" % path),
        "escaped": raw(called, sized(called), first=b"POST %s HTTP/1.1" % path.replace(b"sub_", b"sub%5f")),
        "HTTP/1.0": raw(called, sized(called), first=b"POST %s HTTP/1.0" % path),
        "closing": raw(called, sized(called), b"Connection: close"),
        "offering HTTP/2": raw(called, *OFFER, sized(called)),
        "offering HTTP/2, in chunks": raw(called, b"transfer-encoding: chunked", *OFFER, body=chunked(content)),
        "offering HTTP/2, by HTTP/1.0": raw(called, *OFFER, sized(called), first=b"POST %s HTTP/1.0" % path),
        "offering a WebSocket": raw(called, sized(called), *HANDSHAKE),
        "with many headers": raw(called, sized(called), *[b"x-%d: y" % number for number in range(80)]),
    }
    for name, form in forms.items():
        head, end, body = form.partition(b"\r\n\r\n")
        for pieces in ([form], [form[:30], form[30:]], [head + end, body], [bytes([byte]) for byte in form]):
            wire = await connect(address)
            await wire.send(*pieces)
            answer = await wire.answer()
            is_closed = "HTTP/1.0" in name or name == "closing"
            assert (answer.status, answer.body) == (200, b'{"status":"success"}'), name
            assert ("connection" in answer.headers) == is_closed, name
            if is_closed:
                assert await ended(wire.reader), name
            else:
                await wire.send(PAGE)
                assert (await wire.answer()).status == 200, name
            await wire.close()

    assert await called.verdicts() == [("signed", "moved", 4 * len(forms))]


async def ended(reader: asyncio.StreamReader) -> bool:
    """Return whether the other side closes the connection without sending more."""
    return await asyncio.wait_for(reader.read(), 30) == b""


async def test_whitespace_around_a_header_value_is_ignored(called: Called, address: str) -> None:
    content, first = called.body(), b"POST %s HTTP/1.1" % called.path.encode()
    name, value = called.signature(content)
    signatures = [name + b":" + spaced for spaced in (value + b" ", b" \t" + value + b"\t \t")]
    bodies = {sized(called) + b" ": content, b"transfer-encoding: chunked": chunked(content)}
    wire = await connect(address)
    statuses = []
    for signature in signatures:
        for length, body in bodies.items():
            await wire.send(b"\r\n".join([first, signature, length, b"", body]))
            statuses.append((await wire.answer()).status)
    await wire.close()

    assert statuses == [200] * 4
    assert await called.verdicts() == [("signed", "moved", 4)]


@pytest.mark.parametrize("offer", [(), OFFER], ids=["as usual", "offering HTTP/2"])
async def test_a_client_that_expects_100_continue_gets_it_once(
    called: Called, address: str, offer: tuple[bytes, ...]
) -> None:
    wire = await connect(address)
    await wire.send(raw(called, sized(called), b"Expect: 100-continue", *offer, body=b""))
    assert await asyncio.wait_for(wire.reader.readuntil(b"\r\n\r\n"), 120) == b"HTTP/1.1 100 Continue\r\n\r\n"
    await wire.send(called.body())

    assert (await wire.answer()).status == 200
    await wire.close()


async def test_leading_zeros_in_the_content_length_are_ignored(called: Called, address: str) -> None:
    body = called.body() + b" " * 1_000_000
    name, value = called.signature(body)
    zeros = b"content-length: " + b"0" * 30 + b"%d" % len(body)
    first = b"POST %s HTTP/1.1" % called.path.encode()
    wire = await connect(address)
    await wire.send(b"\r\n".join([first, b"host: gateway", name + b": " + value, zeros, b"", body]))

    assert (await wire.answer()).status == 200
    await wire.close()


async def test_pipelined_requests_are_answered_in_order(called: Called, address: str) -> None:
    usual = raw(called, sized(called))
    forged = b"POST %s HTTP/1.1\r\nx-bfl-signature: 0\r\ncontent-length: 2\r\n\r\n{}" % called.path.encode()
    wire = await connect(address)
    await wire.send(usual + forged + PAGE + usual + PAGE + forged)
    answers = [await wire.answer() for _ in range(6)]
    await wire.send(usual)
    answers.append(await wire.answer())
    await wire.close()

    assert [answer.status for answer in answers] == [200, 401, 200, 200, 200, 401, 200]
    assert (b"success" in answers[0].body, answers[1].headers["content-type"]) == (True, "application/json")


async def test_pipelined_requests_with_an_upgrade_are_answered_in_order(called: Called, address: str) -> None:
    usual, offering = raw(called, sized(called)), raw(called, sized(called), *OFFER)
    in_chunks = raw(called, *HANDSHAKE, b"transfer-encoding: chunked", body=chunked(called.body()))
    nothing = b"\r\n".join([b"GET /nothing HTTP/1.1", *OFFER, b"", b""])
    wire = await connect(address)
    await wire.send(usual + offering + nothing + in_chunks + usual + nothing + offering[:-5])
    await wire.send(offering[-5:] + usual)
    answers = [await wire.answer() for _ in range(8)]
    await wire.close()

    assert [answer.status for answer in answers] == [200, 200, 404, 200, 200, 404, 200, 200]
    assert await called.verdicts() == [("signed", "moved", 6)]


@pytest.mark.parametrize("path", ["{path}", "{path}x", "/healthz"], ids=["unproven", "wrong address", "another route"])
@pytest.mark.parametrize("offer", [OFFER, HANDSHAKE], ids=["HTTP/2", "WebSocket"])
async def test_the_body_of_a_request_that_offers_an_upgrade_is_not_run_as_a_request(
    called: Called, address: str, path: str, offer: tuple[bytes, ...]
) -> None:
    inner = raw(called, sized(called))
    first = b"POST %s HTTP/1.1" % path.format(path=called.path).encode()
    head = b"\r\n".join([first, *offer, b"content-length: %d" % len(inner), b"", b""])
    wire = await connect(address)
    with capture_logs() as written:
        await wire.send(head + inner)
        answers = [await wire.answer()]
        await wire.send(head)
        await asyncio.sleep(0.02)  # so that the body comes by itself
        await wire.send(inner, b"GET /nothing HTTP/1.1\r\n\r\n")
        answers += [await wire.answer(), await wire.answer()]
    await wire.close()

    assert [answer.status for answer in answers] == [answers[0].status] * 2 + [404]
    assert len(requests(written)) == 3
    assert await called.status() == "submitted"


async def test_a_wrong_address_is_answered_before_its_body_comes(called: Called, address: str) -> None:
    wire = await connect(address)
    await wire.send(b"POST %sx HTTP/1.1\r\ncontent-length: 30\r\n\r\n" % called.path.encode())
    early = await wire.answer()
    await wire.send(b"a" * 30, raw(called, sized(called)))
    late = await wire.answer()
    await wire.close()

    assert (early.status, late.status) == (404, 200)


@pytest.mark.parametrize("address", [{"timeout_keep_alive": 0}], indirect=True)
@pytest.mark.parametrize("second", ["callback", "page"])
async def test_a_connection_is_not_idle_while_the_request_behind_a_refused_one_waits_for_its_answer(
    called: Called, address: str, second: str
) -> None:
    unknown = b"POST %sx HTTP/1.1\r\ncontent-length: 0\r\n\r\n" % called.path.encode()
    page = b"GET /v1/tasks HTTP/1.1\r\nx-key: %s\r\n\r\n" % ADMIN_KEY.encode()
    behind = {"callback": raw(called, sized(called)), "page": page}
    wire = await connect(address)
    await wire.send(unknown + behind[second])
    answers = [await wire.answer(), await wire.answer()]

    assert [answer.status for answer in answers] == [404, 200]
    assert await ended(wire.reader)  # idle now
    await wire.close()


async def test_an_incomplete_callback_leaves_only_a_log_line(called: Called, address: str) -> None:
    wire = await connect(address)
    with capture_logs() as written:
        await wire.send(raw(called, sized(called), body=called.body()[:10]))
        await asyncio.sleep(0.05)
        await wire.close()

        async def told() -> bool:
            return bool(requests(written))

        await until(told)
    (line,) = requests(written)
    assert (line["route"], line["status"], line["code"]) == (
        "/callbacks/{submission_id}/{token}",
        400,
        "malformed_request",
    )
    assert await called.verdicts() == []
    assert await called.status() == "submitted"


async def test_a_callback_whose_caller_does_not_wait_for_the_answer_is_stored(called: Called, address: str) -> None:
    wire = await connect(address)
    await wire.send(raw(called, sized(called)))
    await wire.close()

    async def kept() -> bool:
        return await called.verdicts() == [("signed", "moved", 1)]

    await until(kept)


async def test_a_stopping_server_answers_the_current_callback_and_closes(called: Called) -> None:
    app, gate = create_app(nullcontext(called.world.use), with_worker=False), Gate()
    bound, address = listening()
    async with serving(app, bound, timeout_graceful_shutdown=60) as server:

        async def is_in_hand() -> bool:
            return any(
                isinstance(each, Protocol) and each.cycle is not None for each in server.server_state.connections
            )

        async def is_stopping() -> bool:
            return not server.servers[0].is_serving()

        wire = await connect(address)
        holding = asyncio.create_task(called.world.use.db.write(gate.hold))
        await gate.reached.wait()
        await wire.send(raw(called, sized(called)))
        await until(is_in_hand)
        server.should_exit = True
        await until(is_stopping)
        gate.open()
        await holding
        answer = await wire.answer()

        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await ended(wire.reader)
        await wire.close()
    assert await called.verdicts() == [("signed", "moved", 1)]
