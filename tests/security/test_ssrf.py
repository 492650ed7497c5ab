"""The SSRF guard. Host names are resolved from a table in this file, and nothing leaves the machine."""

import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.security.http_clients import guarded_client, results_client
from app.security.ssrf import EgressRefused, Network, is_permitted

PHONE_BOOK = {
    "images.example.com": ["93.184.216.34"],
    "two.example.com": ["93.184.216.34", "2606:2800:220:1::1"],
    "intranet.example.com": ["10.1.2.3"],
    "half.example.com": ["93.184.216.34", "169.254.169.254"],
    "hidden.example.com": ["::ffff:10.1.2.3"],
    "link.example.com": ["fe80::1%eth0"],
    "xn--bcher-kva.example.com": ["93.184.216.34"],
    "localhost": ["127.0.0.1", "::1"],
    "localhost.": ["127.0.0.1"],
}


def look_up(host: str, port: int) -> list[str]:
    """Resolve names from the table, and addresses in every notation with the C library, as in production."""
    if host in PHONE_BOOK:
        return PHONE_BOOK[host]
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    return [str(entry[4][0]) for entry in found]


@dataclass
class Recorder(httpx.AsyncBaseTransport):
    """Answer every request and record it."""

    requests: list[httpx.Request] = field(default_factory=list)
    closed: bool = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return httpx.Response(302, headers={"location": "http://127.0.0.1/"})

    async def aclose(self) -> None:
        self.closed = True


@asynccontextmanager
async def guarded(*allowed: str) -> AsyncGenerator[tuple[httpx.AsyncClient, Recorder]]:
    recorder = Recorder()
    networks = [ip_network(each) for each in allowed]
    async with guarded_client(networks, recorder, resolve=look_up) as client:
        yield client, recorder


async def connected_to(url: str, *allowed: str) -> httpx.Request:
    """The request as it reaches the wire."""
    async with guarded(*allowed) as (client, recorder):
        await client.get(url)
    return recorder.requests[0]


# Addresses

PRIVATE = {
    "this host": "0.0.0.0",  # noqa: S104 - an address to refuse
    "this network": "0.1.2.3",
    "private 10": "10.0.0.1",
    "private 172": "172.16.0.1",
    "private 172, end": "172.31.255.255",
    "private 192": "192.168.0.1",
    "loopback": "127.0.0.1",
    "loopback, end": "127.255.255.255",
    "link-local": "169.254.0.1",
    "metadata": "169.254.169.254",
    "metadata of azure": "168.63.129.16",
    "metadata of oracle": "192.0.0.192",
    "metadata of alibaba": "100.100.100.200",
    "carrier nat": "100.64.0.1",
    "carrier nat, end": "100.127.255.255",
    "protocols": "192.0.0.1",
    "documentation 1": "192.0.2.1",
    "documentation 2": "198.51.100.1",
    "documentation 3": "203.0.113.1",
    "benchmarks": "198.18.0.1",
    "multicast": "224.0.0.1",
    "multicast, end": "239.255.255.255",
    "reserved": "240.0.0.1",
    "broadcast": "255.255.255.255",
    "v6 unspecified": "::",
    "v6 loopback": "::1",
    "v6 link-local": "fe80::1",
    "v6 site-local": "fec0::1",
    "v6 unique local": "fd00::1",
    "v6 metadata of aws": "fd00:ec2::254",
    "v6 multicast": "ff02::1",
    "v6 documentation": "2001:db8::1",
    "v6 documentation, new": "3fff::1",
    "v6 discard": "100::1",
    "mapped loopback": "::ffff:127.0.0.1",
    "mapped metadata": "::ffff:169.254.169.254",
    "compatible loopback": "::127.0.0.1",
    "nat64 private": "64:ff9b::10.0.0.1",
    "nat64 metadata": "64:ff9b::169.254.169.254",
    "local nat64": "64:ff9b:1::8.8.8.8",
    "6to4 private": "2002:0a00:0001::1",
    "6to4 loopback": "2002:7f00:0001::1",
    "teredo of a private client": "2001:0:4136:e378:8000:63bf:f5ff:fffe",
}
PUBLIC = {
    "public": "8.8.8.8",
    "beside private 172": "172.32.0.1",
    "beside carrier nat": "100.128.0.1",
    "beside link-local": "169.253.255.255",
    "v6": "2606:4700:4700::1111",
    "mapped": "::ffff:8.8.8.8",
    "nat64": "64:ff9b::8.8.8.8",
    "6to4": "2002:0808:0808::1",
}


@pytest.mark.parametrize("address", PRIVATE.values(), ids=PRIVATE.keys())
def test_an_address_in_a_private_network_is_not_permitted(address: str) -> None:
    assert not is_permitted(ip_address(address), ())


@pytest.mark.parametrize("address", PUBLIC.values(), ids=PUBLIC.keys())
def test_a_public_address_is_permitted(address: str) -> None:
    assert is_permitted(ip_address(address), ())


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("10.1.2.3", "10.1.0.0/16"),
        ("fd00::1", "fd00::/8"),
        ("127.0.0.1", "127.0.0.1/32"),
        ("::ffff:10.1.2.3", "10.0.0.0/8"),
    ],
    ids=["v4", "v6", "one address", "seen through the mapped form"],
)
def test_a_network_that_the_operator_lists_is_permitted(address: str, allowed: str) -> None:
    assert is_permitted(ip_address(address), [ip_network(allowed)])


def test_a_listed_network_permits_no_other_network() -> None:
    assert not is_permitted(ip_address("10.2.0.1"), [ip_network("10.1.0.0/16")])


@given(st.ip_addresses(v=4, network="10.0.0.0/8") | st.ip_addresses(v=4, network="127.0.0.0/8"))
def test_no_form_of_a_private_address_is_permitted(address: Any) -> None:
    number = int(address)
    forms = [number, 0xFFFF << 32 | number, 0x64FF9B << 96 | number, 0x2002 << 112 | number << 80]

    assert not any(is_permitted(ip_address(form), ()) for form in forms)


# The connection


async def test_the_connection_goes_to_the_address_that_was_checked() -> None:
    assert (await connected_to("https://images.example.com/a.png?b=c")).url == "https://93.184.216.34/a.png?b=c"


async def test_the_host_header_has_the_name_in_the_url() -> None:
    assert (await connected_to("https://images.example.com/a.png")).headers["host"] == "images.example.com"


async def test_the_certificate_is_checked_against_the_name_in_the_url() -> None:
    request = await connected_to("https://images.example.com/a.png")

    assert request.extensions["sni_hostname"] == "images.example.com"


async def test_a_port_is_kept() -> None:
    request = await connected_to("http://images.example.com:8080/")

    assert (str(request.url), request.headers["host"]) == ("http://93.184.216.34:8080/", "images.example.com:8080")


async def test_an_international_name_is_resolved_and_sent_in_its_ascii_form() -> None:
    request = await connected_to("https://b\u00fccher.example.com/")

    assert request.headers["host"] == request.extensions["sni_hostname"] == "xn--bcher-kva.example.com"


async def test_the_first_of_several_public_addresses_is_used() -> None:
    assert (await connected_to("https://two.example.com/")).url.host == "93.184.216.34"


async def test_no_redirect_is_followed() -> None:
    async with guarded() as (client, recorder):
        answer = await client.get("https://images.example.com/")

    assert (answer.status_code, len(recorder.requests)) == (302, 1)


async def test_a_relative_redirect_leads_to_the_name_that_was_given_and_not_to_its_address() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(302, headers={"location": "/b.png"} if request.url.path == "/a.png" else {})

    async with guarded_client((), httpx.MockTransport(answer), resolve=look_up) as client:
        redirect = (await client.get("https://images.example.com/a.png")).next_request
        assert redirect is not None
        answer_there = await client.send(redirect)

    assert str(redirect.url) == "https://images.example.com/b.png"
    assert answer_there.request.headers["host"] == "images.example.com"


@pytest.mark.parametrize(
    ("url", "reached"),
    [
        ("http://twin.internal:8090/a.png", True),
        ("http://twin.internal/a.png", False),
        ("http://twin.internal:8091/a.png", False),
        ("https://twin.internal:8090/a.png", False),
        ("http://user@twin.internal:8090/a.png", False),
    ],
)
async def test_only_the_configured_origin_is_reached_unchecked(url: str, *, reached: bool) -> None:
    recorder, names = Recorder(), {"twin.internal": ["10.1.2.3"]}
    origin = "http://twin.internal:8090"
    async with results_client(recorder, resolve=lambda host, _: names[host], origins=[origin]) as client:
        with suppress(EgressRefused):
            await client.get(url)

    assert bool(recorder.requests) == reached


async def test_closing_the_client_closes_its_transport() -> None:
    async with guarded() as (_, recorder):
        pass

    assert recorder.closed


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://10.0.0.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://2130706433/",
        "http://017700000001/",
        "http://0x7f000001/",
        "http://0x7f.1/",
        "http://0177.0.0.1/",
        "http://127.1/",
        "http://0/",
        "http://[::1]/",
        "http://[::]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/",
        "http://[64:ff9b::a9fe:a9fe]/",
        "http://[fe80::1]/",
        "http://images.example.com@127.0.0.1/",
        "http://127.0.0.1:80#@images.example.com/",
        "http://127.0.0.1\\@images.example.com:80@127.0.0.1/",
        "http://localhost/",
        "http://LOCALHOST/",
        "http://localhost./",
        "http://\u24db\u24de\u24d2\u24d0\u24db\u24d7\u24de\u24e2\u24e3/",
        "http://intranet.example.com/",
        "http://half.example.com/",
        "http://hidden.example.com/",
        "http://link.example.com/",
        "http://unknown.example.com/",
        "http://8.8.8.8:99999/",
        "http:///",
        "http://%31%32%37.0.0.1/",
        f"http://{'a' * 64}.example.com/",
    ],
)
async def test_a_url_of_a_private_host_is_refused_before_anything_is_sent(url: str) -> None:
    async with guarded() as (client, recorder):
        with pytest.raises((httpx.TransportError, httpx.InvalidURL)):
            await client.get(url)

    assert recorder.requests == []


async def test_a_refusal_looks_like_a_host_that_cannot_be_reached() -> None:
    async with guarded() as (client, _):
        with pytest.raises(EgressRefused, match=r"^the host cannot be reached$") as refused:
            await client.get("http://intranet.example.com/")
        with pytest.raises(EgressRefused, match=r"^the host cannot be reached$"):
            await client.get("http://unknown.example.com/")

    assert isinstance(refused.value, httpx.ConnectError)


async def test_a_listed_network_can_be_reached() -> None:
    assert (await connected_to("http://intranet.example.com/", "10.0.0.0/8")).url.host == "10.1.2.3"


async def test_every_address_of_a_name_must_be_listed() -> None:
    async with guarded("127.0.0.0/8") as (client, recorder):
        with pytest.raises(EgressRefused):
            await client.get("http://localhost/")

    assert recorder.requests == []


def test_the_guard_accepts_networks_of_both_ip_versions() -> None:
    networks: list[Network] = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]

    assert is_permitted(ip_address("fd00::1"), networks)
