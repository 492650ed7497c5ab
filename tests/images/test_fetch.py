"""Input images by URL: redirects, compressed answers, and errors that say what was wrong."""

import asyncio
import gzip
import ssl
import tracemalloc
import zlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app import __version__, clock
from app.images import inputs
from app.security.http_clients import guarded_client
from app.settings import Settings
from app.wiring import user_agent
from tests.pictures import padded, picture
from tests.web.documents import kept_files, nothing_recorded, problem
from tests.world import Network, World, open_world

PNG = picture()
MB = 1024 * 1024
PUBLIC, OTHER, PRIVATE = "93.184.216.34", "93.184.216.35", "10.0.0.7"
NAMES = {"a.example.com": PUBLIC, "b.example.com": OTHER, "inside.example.com": PRIVATE}
LOOPBACK = (ip_network("127.0.0.0/8"),)
PAGE = "<html>sign in</html>"
URL = "https://a.example.com/a.png"
UNREACHABLE = "its URL cannot be reached"


@dataclass
class Site:
    """A website: answers by path, and the requests that it got."""

    answers: dict[str, Response] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)

    def redirect(self, path: str, location: str, status: int = 302) -> None:
        self.answers[path] = Response(status_code=status, headers={"location": location})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        self.requests.append(request)
        await self.answers.get(request.url.path, Response(PNG))(scope, receive, send)

    @property
    def hosts(self) -> list[str]:
        return [request.headers["host"] for request in self.requests]


@pytest.fixture
async def site() -> Site:
    return Site()


@pytest.fixture
async def world(tmp_path: Path, sqlite_url: str, site: Site) -> AsyncGenerator[World]:
    """A world whose guard resolves the names above; the website is at every address."""
    network, agent = Network(), "fluxhook/1.0 (+https://fluxhook.example.com)"
    for address in NAMES.values():
        network.add(address, site)
    async with (
        guarded_client((), network, resolve=lambda host, _port: [NAMES.get(host, host)]) as web,
        open_world(tmp_path, sqlite_url, web=web, user_agent=agent) as opened,
    ):
        yield replace(opened, network=network)


async def post(world: World, address: str) -> httpx.Response:
    return await world.api.post("/v1/tasks", json={"prompt": "a red fox", "input_image": address})


async def reason(world: World, address: str, status: int = 422) -> str:
    """Post an image by URL; return why it is refused. Nothing may be recorded."""
    found = problem(await post(world, address), status)
    assert await nothing_recorded(world)
    assert kept_files(world) == []
    return str(found["fields"]["input_image"])


async def is_taken(world: World, address: str) -> bool:
    answer = await post(world, address)
    return answer.status_code == 202 and len(kept_files(world)) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_followed(world: World, site: Site, status: int) -> None:
    site.redirect("/a.png", "/b.png", status)

    assert await is_taken(world, URL)


async def test_three_redirects_are_followed_over_hosts_and_relative_paths(world: World, site: Site) -> None:
    site.redirect("/1", "https://b.example.com/x/2?a=b")
    site.redirect("/x/2", "3")
    site.redirect("/x/3", "//a.example.com/4")

    assert await is_taken(world, "https://a.example.com/1")
    assert site.hosts == ["a.example.com", "b.example.com", "b.example.com", "a.example.com"]


async def test_a_fourth_redirect_is_refused(world: World, site: Site) -> None:
    site.redirect("/loop", "/loop")

    assert await reason(world, "https://a.example.com/loop") == "its URL redirects more than 3 times"
    assert len(site.requests) == 4


@pytest.mark.parametrize("location", [f"http://{PRIVATE}/", "https://inside.example.com/", "http://127.0.0.1/"])
async def test_a_redirect_to_a_private_address_looks_like_a_dead_host(world: World, site: Site, location: str) -> None:
    site.redirect("/a.png", location)

    assert await reason(world, URL) == UNREACHABLE
    assert site.hosts == ["a.example.com"]


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("ftp://b.example.com/", "its URL redirects to something that is not an http(s) address"),
        ("data:image/png;base64,AAAA", "its URL answered with HTTP 302"),
        ("http://[", UNREACHABLE),
        ("https://user:password@b.example.com/", "its URL must not contain a user name or a password"),
        ("https://b.example.com:25/", "the port of its URL must be 80, 443 or above 1023"),
    ],
)
async def test_a_redirect_to_an_unusable_address_is_refused(
    world: World, site: Site, location: str, expected: str
) -> None:
    site.redirect("/a.png", location)

    assert await reason(world, URL) == expected


@pytest.mark.parametrize(
    "compressed",
    [("gzip", gzip.compress(PNG)), ("x-gzip", gzip.compress(PNG)), ("deflate", zlib.compress(PNG)), ("identity", PNG)],
    ids=lambda compressed: compressed[0],
)
async def test_a_body_that_is_compressed_unasked_is_decoded(
    world: World, site: Site, compressed: tuple[str, bytes]
) -> None:
    encoding, body = compressed
    site.answers["/a.png"] = Response(body, headers={"content-encoding": encoding})

    assert await is_taken(world, URL)
    assert kept_files(world)[0].read_bytes() == PNG
    assert site.requests[0].headers["accept-encoding"] == "identity"


async def test_a_compressed_image_of_the_largest_size_is_taken(world: World, site: Site) -> None:
    body = gzip.compress(padded(20 * MB), 1)
    site.answers["/a.png"] = Response(body, headers={"content-encoding": "gzip"})

    assert await is_taken(world, URL)


async def test_a_compressed_body_is_limited_by_its_inflated_size(world: World, site: Site) -> None:
    compressor = zlib.compressobj(9, wbits=31)
    bomb = b"".join([*(compressor.compress(bytes(MB)) for _ in range(100)), compressor.flush()])
    site.answers["/a.png"] = Response(bomb, headers={"content-encoding": "gzip"})

    tracemalloc.start()
    try:
        assert await reason(world, URL, 413) == "more than 20 MB"
        assert tracemalloc.get_traced_memory()[1] < 10 * MB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("encoding", "body", "expected"),
    [
        ("gzip", gzip.compress(PNG)[:-20], "its compressed body is cut off"),
        ("gzip", PNG, "its compressed body is damaged"),
        ("br", PNG, "its URL answered with a body compressed with br, which was not asked for"),
        (
            "gzip, \xff",
            PNG,
            "its URL answered with a body compressed with an unknown way, which was not asked for",
        ),
    ],
    ids=["cut off", "not compressed", "brotli", "unknown"],
)
async def test_a_compressed_body_that_cannot_be_decoded_is_refused(
    world: World, site: Site, encoding: str, body: bytes, expected: str
) -> None:
    site.answers["/a.png"] = Response(body, headers={"content-encoding": encoding})

    assert await reason(world, URL) == expected


@pytest.mark.parametrize(
    ("answer", "status", "expected"),
    [
        (Response(status_code=403), 422, "its URL answered with HTTP 403"),
        (Response(status_code=304), 422, "its URL answered with HTTP 304"),
        (Response(status_code=302), 422, "its URL answered with HTTP 302"),
        (Response(PAGE, media_type="text/html"), 422, "not a JPEG, PNG or WebP image: its URL delivered text/html"),
        (Response(PAGE, media_type="image/png"), 422, "not a JPEG, PNG or WebP image"),
        (Response("{}", headers={"content-type": "a prompt; x"}), 422, "not a JPEG, PNG or WebP image"),
        (Response(bytes(20 * MB + 1)), 413, "more than 20 MB"),
    ],
    ids=["forbidden", "not modified", "a redirect to nowhere", "a page", "a page as PNG", "strange type", "too large"],
)
async def test_the_refusal_of_an_answer_says_what_was_wrong(
    world: World, site: Site, answer: Response, status: int, expected: str
) -> None:
    site.answers["/a.png"] = answer

    assert await reason(world, URL, status) == expected


@pytest.mark.parametrize("address", [f" {URL}", f"{URL}\r\n", f"\t HTTPS{URL.removeprefix('https')} "])
async def test_blanks_around_a_url_are_ignored(world: World, address: str) -> None:
    assert await is_taken(world, address)


async def test_a_url_with_a_password_is_refused_without_a_request(world: World, site: Site) -> None:
    expected = "its URL must not contain a user name or a password"

    assert await reason(world, "https://user:password@a.example.com/a.png") == expected
    assert await reason(world, "https://user@a.example.com/a.png") == expected
    assert site.requests == []


@pytest.mark.parametrize("port", [0, 1, 22, 25, 81, 465, 993, 1023])
async def test_a_well_known_port_that_is_not_http_is_refused(world: World, site: Site, port: int) -> None:
    expected = "the port of its URL must be 80, 443 or above 1023"

    assert await reason(world, f"https://a.example.com:{port}/a.png") == expected
    assert site.requests == []


@pytest.mark.parametrize("port", [80, 443, 1024, 8080, 65535])
async def test_a_usual_port_is_used(world: World, port: int) -> None:
    assert await is_taken(world, f"https://a.example.com:{port}/a.png")


async def test_the_host_learns_who_asks_and_what_formats_are_supported(world: World, site: Site) -> None:
    site.redirect("/a.png", "https://b.example.com/b.png")
    await post(world, URL)

    for request in site.requests:
        assert request.headers["user-agent"] == "fluxhook/1.0 (+https://fluxhook.example.com)"
        assert request.headers["accept"] == "image/jpeg, image/png, image/webp, */*;q=0.1"


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, ""),
        ({"FLUXHOOK_PUBLIC_URL": "https://flux.example.com"}, " (+https://flux.example.com)"),
        (
            {"FLUXHOOK_PUBLIC_URL": "https://flux.example.com", "FLUXHOOK_CONTACT": "mailto:ops@example.com"},
            " (+mailto:ops@example.com)",
        ),
        ({"FLUXHOOK_PUBLIC_URL": "https://b\u00fccher.example.com"}, ""),
    ],
    ids=["nothing", "public URL", "contact", "not ASCII"],
)
def test_the_user_agent_names_the_version_and_a_contact(env: dict[str, str], expected: str) -> None:
    assert user_agent(Settings.from_env(env)) == f"fluxhook/{__version__}{expected}"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (httpx.ConnectError("refused"), UNREACHABLE),
        (httpx.ConnectTimeout("no answer"), UNREACHABLE),
        (httpx.ReadTimeout("no answer"), "its URL did not deliver the image in time"),
        (httpx.ReadError("reset"), "its host closed the connection before the image was complete"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
async def test_a_failing_connection_is_explained(world: World, error: httpx.HTTPError, expected: str) -> None:
    def fail(_: httpx.Request) -> httpx.Response:
        raise error

    world.network.hosts[PUBLIC] = httpx.MockTransport(fail)

    assert await reason(world, URL) == expected


async def test_too_many_downloads_at_once_are_refused_for_a_while(
    world: World, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "_MAX_WAIT_S", 0)
    async with world.use.fetching.taken(1_000_000):
        answer = await post(world, URL)

    problem(answer, 503, "overloaded")
    assert answer.headers["retry-after"]
    assert site.requests == []


@asynccontextmanager
async def answering(answer: bytes, context: ssl.SSLContext | None = None) -> AsyncGenerator[int]:
    """Answer each connection with these bytes, and close it; yield the port."""

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(meet, "127.0.0.1", 0, ssl=context) as server:
        yield server.sockets[0].getsockname()[1]


@pytest.fixture
async def on_sockets(tmp_path: Path, sqlite_url: str) -> AsyncGenerator[World]:
    """A world that may fetch from loopback."""
    async with guarded_client(LOOPBACK) as web, open_world(tmp_path, sqlite_url, web=web) as opened:
        yield opened


async def test_an_answer_that_is_cut_off_is_refused(on_sockets: World) -> None:
    head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(PNG)}\r\n\r\n".encode()
    async with answering(head + PNG[:-1]) as port:
        found = await reason(on_sockets, f"http://127.0.0.1:{port}/a.png")

    assert found == "its host closed the connection before the image was complete"


async def test_a_certificate_that_is_not_trusted_is_named(on_sockets: World, tmp_path: Path) -> None:
    async with answering(b"", self_signed(tmp_path)) as port:
        found = await reason(on_sockets, f"https://127.0.0.1:{port}/a.png")

    assert found == "its host has no valid certificate"


def self_signed(folder: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(clock.utc_now() - timedelta(days=1))
        .not_valid_after(clock.utc_now() + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "tls.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context
