"""Requests of faulty and hostile clients over real sockets."""

import asyncio
import json
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx
import pytest

from tests.web.documents import nothing_recorded, problem
from tests.world import ADMIN_KEY, World

MB = 1024 * 1024
JSON = "content-type: application/json"


@dataclass
class ProviderResponse:
    """The parts of an HTTP response that these tests check."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Wire:
    """A connection to the service on which any bytes can be sent."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    async def ask(self, method: str, path: str, *headers: str) -> None:
        lines = [f"{method} {path} HTTP/1.1", "host: gateway", f"x-key: {ADMIN_KEY}", *headers, "", ""]
        await self.send("\r\n".join(lines).encode("latin-1"))

    async def answer(self) -> ProviderResponse:
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 120)
        first, *lines = head.decode("latin-1").strip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return ProviderResponse(int(first.split(" ")[1]), headers, body)

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


async def connect(address: str) -> Wire:
    at = urlsplit(address)
    return Wire(*await asyncio.open_connection(at.hostname, at.port))


async def refusal(wire: Wire, status: int) -> None:
    """Check that the response on this connection is the error document of that status."""
    answer = await wire.answer()
    problem(httpx.Response(answer.status, headers=answer.headers, content=answer.body), status)
    await wire.close()


async def is_alive(address: str) -> bool:
    async with httpx.AsyncClient(base_url=address, timeout=60) as client:
        return (await client.get("/healthz")).status_code == httpx.codes.OK


async def test_a_large_body_is_refused_before_a_byte_of_it_is_sent(world: World, address: str) -> None:
    wire = await connect(address)
    await wire.ask("POST", "/v1/tasks", JSON, f"content-length: {40 * MB}", "expect: 100-continue")

    await refusal(wire, 413)
    assert await nothing_recorded(world)


async def test_a_client_that_sends_all_of_a_large_body_first_gets_the_refusal_too(address: str) -> None:
    async with httpx.AsyncClient(base_url=address, headers={"x-key": ADMIN_KEY}, timeout=60) as client:
        json_body = await client.post("/v1/tasks", content=bytes(40 * MB), headers={"content-type": "application/json"})
        callback = await client.post("/callbacks/a/b", content=bytes(5 * MB))

    problem(json_body, 413)
    problem(callback, 413)


async def test_an_endless_chunked_body_is_refused_at_the_limit(address: str) -> None:
    wire = await connect(address)
    await wire.ask("POST", "/v1/tasks", JSON, "transfer-encoding: chunked")
    chunk = b"100000\r\n" + bytes(MB) + b"\r\n"

    await wire.send(*[chunk] * 37)

    await refusal(wire, 413)


async def test_a_body_that_comes_in_single_bytes_is_a_body(world: World, address: str) -> None:
    wire = await connect(address)
    await wire.ask("POST", "/v1/tasks", JSON, "transfer-encoding: chunked")
    await wire.send(*[b"1\r\n%c\r\n" % byte for byte in b'{"prompt": "a red fox"}'], b"0\r\n\r\n")

    answer = await wire.answer()
    await wire.close()

    assert answer.status == 202
    assert (await world.task(json.loads(answer.body)["id"]))["params"]["prompt"] == "a red fox"


@pytest.mark.parametrize("content_type", ["application/json", "multipart/form-data; boundary=b"])
async def test_an_incomplete_body_makes_no_task_and_blocks_no_request(
    world: World, address: str, content_type: str
) -> None:
    wire = await connect(address)
    half = b'--b\r\ncontent-disposition: form-data; name="prompt"\r\n\r\na red fox\r\n'
    await wire.ask("POST", "/v1/tasks", f"content-type: {content_type}", "content-length: 5000")
    await wire.send(half)
    await wire.close()

    assert await is_alive(address)
    assert await nothing_recorded(world)


async def test_an_incomplete_callback_changes_nothing(world: World, address: str) -> None:
    proof = world.use.keys.callback_proof("sub_1", world.use.keys.newest)
    wire = await connect(address)
    await wire.ask("POST", f"/callbacks/sub_1/{proof.token}", "content-length: 5000")
    await wire.send(b"{")
    await wire.close()

    assert await is_alive(address)


NO_HTTP = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",  # TLS
    b"GET /v1/tasks HTTP/1.1\r\nhost: x\r\nx-key: a\rb\r\n\r\n",
    b"GET /v1/tasks HTTP/1.1\r\nhost: x\r\nx\0y: a\r\n\r\n",
    b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    b"BREW / HTTP/1.1\r\nhost: x\r\n\r\n",
    b"CONNECT gateway:443 HTTP/1.1\r\nhost: gateway:443\r\n\r\nGET /healthz HTTP/1.1\r\n\r\n",
    b"CONNECT http://gateway/healthz HTTP/1.1\r\nhost: gateway\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
]


async def test_invalid_http_is_refused_by_the_server_itself(address: str) -> None:
    for start in NO_HTTP:
        wire = await connect(address)
        await wire.send(start)

        answer = await wire.answer()
        await wire.close()

        assert (answer.status, answer.body) == (400, b"Invalid HTTP request received."), start
    assert await is_alive(address)


ODD: list[tuple[str, str, int]] = [
    ("/v1/tasks/%0d%0aset-cookie:%20a=b/image", "x: y", 404),
    ("/v1/tasks/" + "a" * 10_000, "x: y", 404),
    ("/../../etc/passwd", "x: y", 404),
    ("/static/../../main.py", "x: y", 404),
    ("*", "x: y", 404),
    ("/v1/tasks/", "host: evil.example", 404),
    ("/v1/tasks?limit=%ff", "prefer: \xff", 422),
    ("/v1/tasks", "authorization: Bearer \xff", 401),
]


async def test_an_odd_request_gets_the_error_document(address: str) -> None:
    for path, header, status in ODD:
        wire = await connect(address)
        await wire.ask("GET", path, header)

        await refusal(wire, status)


async def test_long_headers_and_many_headers_are_accepted(address: str) -> None:
    wire = await connect(address)
    await wire.ask("GET", "/v1/tasks", f"x-long: {'a' * 14_000}", *[f"x-{number}: y" for number in range(90)])

    answer = await wire.answer()
    await wire.close()

    assert answer.status == httpx.codes.OK
