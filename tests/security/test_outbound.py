"""A private authority and a proxy for outgoing requests, over real TLS and a real CONNECT proxy."""

import asyncio
import ssl
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from ipaddress import ip_network
from pathlib import Path

import httpx
import pytest

from app.errors import ConfigurationError
from app.provider import http as exchange
from app.rules.task import Said
from app.security.http_clients import guarded_client, provider_client, results_client
from app.security.outbound import Outbound, open_outbound, trusted
from app.security.ssrf import EgressRefused
from tests.certificates import Authority
from tests.connect_proxy import ConnectProxy, connect_proxy

NAME, ADDRESS, IPV6 = "images.example.com", "93.184.216.34", "2606:2800:220:1::1"
LOOPBACK = [ip_network("127.0.0.0/8")]
BOOK = {
    NAME: [ADDRESS],
    "six.example.com": [IPV6],
    "other.example.com": [ADDRESS],
    "intranet.example.com": ["10.1.2.3"],
}
LONG = timedelta(minutes=2)


def resolve(host: str, _port: int) -> Sequence[str]:
    return BOOK.get(host, [host])


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@asynccontextmanager
async def https_server(authority: Authority, *hosts: str) -> AsyncGenerator[tuple[int, list[str | None]]]:
    """Answer each request with "hello". Yield the port, and the names that the clients ask for in TLS."""
    context, names = authority.server(*hosts), list[str | None]()
    context.sni_callback = lambda _object, name, _context: names.append(name)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as server:
        yield server.sockets[0].getsockname()[1], names


def guarded(outbound: Outbound) -> httpx.AsyncClient:
    return guarded_client((), resolve=resolve, outbound=outbound)


# Trusted authorities


@pytest.mark.parametrize(
    "client",
    [provider_client, partial(results_client, allowed=LOOPBACK), partial(guarded_client, LOOPBACK)],
    ids=["provider", "results", "guarded"],
)
async def test_a_private_authority_is_trusted_only_with_its_file(
    client: Callable[..., httpx.AsyncClient], authority: Authority
) -> None:
    async with https_server(authority, "127.0.0.1") as (port, _):
        async with client(outbound=open_outbound(authority.file)) as http:
            answer = await http.get(f"https://127.0.0.1:{port}/")
        async with client(outbound=open_outbound()) as http:
            with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                await http.get(f"https://127.0.0.1:{port}/")

    assert answer.text == "hello"


def test_the_public_authorities_stay_trusted(authority: Authority) -> None:
    public, both = trusted().get_ca_certs(binary_form=True), trusted(authority.file).get_ca_certs(binary_form=True)

    assert len(both) == len(public) + 1
    assert set(public) < set(both)


def test_names_are_checked_with_a_private_authority_too(authority: Authority) -> None:
    context = trusted(authority.file)

    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


def test_certificates_are_read_once(authority: Authority) -> None:
    assert trusted() is trusted()
    assert trusted(authority.file) is trusted(authority.file)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "must contain certificates in PEM form"),
        (b"certificate\n", "must contain certificates in PEM form"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "must contain certificates in PEM form"),
    ],
    ids=["missing", "empty", "text", "broken"],
)
def test_a_file_that_holds_no_certificate_is_refused(tmp_path: Path, content: bytes | None, reason: str) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(ConfigurationError) as refused:
        open_outbound(file)

    assert refused.value.detail.startswith(f"FLUXHOOK_CA_FILE: {file} {reason}")


def test_a_folder_is_not_a_file_of_authorities(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^FLUXHOOK_CA_FILE: "):
        open_outbound(tmp_path)


# The proxy


def test_an_invalid_host_of_the_proxy_is_refused_without_showing_the_url() -> None:
    with pytest.raises(ConfigurationError, match=r"^FLUXHOOK_HTTPS_PROXY: ") as refused:
        open_outbound(proxy="http://me:hidden@-\u00e9.example.com:3128")

    assert "hidden" not in refused.value.detail


@asynccontextmanager
async def behind_proxy(
    authority: Authority, *hosts: str, credentials: str = "", status: int | None = 200, encrypted: bool = False
) -> AsyncGenerator[tuple[Outbound, ConnectProxy, list[str | None]]]:
    """A server of `hosts` that only the proxy reaches. Yield the way out, the proxy, and the names asked for in TLS."""
    tls = authority.server("127.0.0.1") if encrypted else None
    async with https_server(authority, *hosts) as (port, names), connect_proxy(port, status, tls) as proxy:
        scheme = "https" if encrypted else "http"
        yield open_outbound(authority.file, f"{scheme}://{credentials}{proxy.address}"), proxy, names


@pytest.mark.parametrize("encrypted", [False, True], ids=["http proxy", "https proxy"])
async def test_the_proxy_gets_the_checked_address_and_the_server_its_name(
    authority: Authority, *, encrypted: bool
) -> None:
    async with (
        behind_proxy(authority, NAME, encrypted=encrypted) as (outbound, proxy, names),
        guarded(outbound) as http,
    ):
        answer = await http.get(f"https://{NAME}/a.png")

    assert answer.text == "hello"
    assert (proxy.targets, names) == ([f"CONNECT {ADDRESS}:443"], [NAME])


async def test_an_ipv6_address_is_written_in_brackets(authority: Authority) -> None:
    async with behind_proxy(authority, "six.example.com") as (outbound, proxy, _), guarded(outbound) as http:
        await http.get("https://six.example.com:8443/")

    assert proxy.targets == [f"CONNECT [{IPV6}]:8443"]


async def test_the_certificate_behind_the_proxy_must_be_that_of_the_name(authority: Authority) -> None:
    async with behind_proxy(authority, NAME, ADDRESS) as (outbound, _, _), guarded(outbound) as http:
        with pytest.raises(httpx.ConnectError, match=r"not valid for 'other\.example\.com'"):
            await http.get("https://other.example.com/")


@pytest.mark.parametrize("url", ["https://intranet.example.com/", "https://127.0.0.1/", "https://169.254.169.254/"])
async def test_a_private_address_is_refused_before_the_proxy_is_asked(authority: Authority, url: str) -> None:
    async with behind_proxy(authority, NAME) as (outbound, proxy, _), guarded(outbound) as http:
        with pytest.raises(EgressRefused):
            await http.get(url)

    assert proxy.targets == []


@pytest.mark.parametrize(
    "client", [provider_client, partial(results_client, usual_hosts=["api.example.com"])], ids=["provider", "results"]
)
async def test_the_proxy_resolves_the_names_of_the_provider(
    client: Callable[..., httpx.AsyncClient], authority: Authority
) -> None:
    async with behind_proxy(authority, "api.example.com") as (outbound, proxy, _), client(outbound=outbound) as http:
        answer = await http.get("https://api.example.com/v1/credits")

    assert answer.text == "hello"
    assert proxy.targets == ["CONNECT api.example.com:443"]


async def test_private_hosts_are_connected_to_directly(authority: Authority) -> None:
    async with behind_proxy(authority, "127.0.0.1") as (outbound, proxy, _):
        async with guarded_client(LOOPBACK, outbound=outbound) as http:
            answer = await http.get(f"https://127.0.0.1:{proxy.port}/")
        async with provider_client(outbound=outbound) as http:
            again = await http.get(f"https://127.0.0.1:{proxy.port}/")

    assert (answer.text, again.text, proxy.targets) == ("hello", "hello", [])


async def test_the_user_name_and_the_password_are_decoded_and_sent_to_the_proxy_alone(authority: Authority) -> None:
    credentials = "me:p%40ss%3Aword@"
    async with (
        behind_proxy(authority, NAME, credentials=credentials) as (outbound, proxy, _),
        guarded(outbound) as http,
    ):
        answer = await http.get(f"https://{NAME}/")

    assert proxy.credentials == ["me:p@ss:word"]
    assert "proxy-authorization" not in answer.request.headers


@pytest.mark.parametrize(
    ("status", "detail"),
    [
        (407, "not reached: the proxy refuses the connection: HTTP 407"),
        (502, "not reached: the proxy refuses the connection: HTTP 502"),
        (None, "not reached: the proxy does not answer"),
    ],
)
async def test_a_request_that_the_proxy_did_not_pass_on_was_not_sent(
    authority: Authority, status: int | None, detail: str
) -> None:
    async with (
        behind_proxy(authority, "api.example.com", status=status) as (outbound, _, names),
        provider_client(outbound=outbound) as http,
    ):
        request = http.build_request("POST", "https://api.example.com/", timeout=httpx.Timeout(None, connect=0.2))
        answer = await exchange.send(http, request, LONG)

    assert (answer.report.said, answer.report.detail) == (Said.DOWN, detail)
    assert names == []


async def test_a_proxy_that_cannot_be_reached_is_named() -> None:
    async with provider_client(outbound=open_outbound(proxy="http://127.0.0.1:9")) as http:
        answer = await exchange.send(http, http.build_request("POST", "https://api.example.com/"), LONG)

    assert answer.report.said is Said.DOWN
    assert (answer.report.detail or "").startswith("not reached: the proxy cannot be used: ")


async def test_an_authority_that_is_not_trusted_is_named(authority: Authority) -> None:
    async with https_server(authority, "127.0.0.1") as (port, _), provider_client() as http:
        answer = await exchange.send(http, http.build_request("GET", f"https://127.0.0.1:{port}/"), LONG)

    assert answer.report.said is Said.DOWN
    assert "CERTIFICATE_VERIFY_FAILED" in (answer.report.detail or "")
