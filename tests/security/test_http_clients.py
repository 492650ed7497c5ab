"""What the clients for outgoing requests have in common."""

import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from ipaddress import ip_network

import httpx
import pytest

from app.security import http_clients
from app.security.http_clients import guarded_client, provider_client, results_client
from app.security.outbound import open_outbound
from app.twin import build
from tests.sockets import listening, serving

PUBLIC = "93.184.216.34"
Client = Callable[[httpx.AsyncBaseTransport], httpx.AsyncClient]


def resolve(_host: str, _port: int) -> Sequence[str]:
    return [PUBLIC]


def guarded(transport: httpx.AsyncBaseTransport) -> httpx.AsyncClient:
    return guarded_client((), transport, resolve=resolve)


def results(transport: httpx.AsyncBaseTransport) -> httpx.AsyncClient:
    return results_client(transport, resolve=resolve)


every_client = pytest.mark.parametrize("client", [provider_client, results, guarded])


@every_client
@pytest.mark.parametrize("host", ["images.example.com", PUBLIC])
async def test_no_cookie_is_stored_or_sent_back(client: Client, host: str) -> None:
    sent: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request.headers.get("cookie"))
        return httpx.Response(200, headers={"set-cookie": f"number={len(sent)}; Max-Age=31536000"})

    async with client(httpx.MockTransport(answer)) as http:
        for _ in range(2):
            await http.post(f"https://{host}/")

    assert sent == [None, None]
    assert list(http.cookies.jar) == []


@every_client
async def test_no_redirect_is_followed_and_no_encoding_is_accepted(client: Client) -> None:
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(302, headers={"location": "https://example.com/elsewhere"})

    async with client(httpx.MockTransport(answer)) as http:
        response = await http.get("https://example.com/")

    assert response.status_code == 302
    assert [request.headers["accept-encoding"] for request in sent] == ["identity"]


@pytest.mark.parametrize(
    "client",
    [
        provider_client,
        lambda: results_client(allowed=[ip_network("127.0.0.0/8")]),
        lambda: guarded_client([ip_network("127.0.0.0/8")]),
    ],
    ids=["provider", "results", "applications"],
)
async def test_proxy_variables_of_the_environment_are_ignored(
    client: Callable[[], httpx.AsyncClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    bound, url = listening()
    async with serving(build(seed=1), bound), client() as http:
        assert (await http.get(f"{url}/twin/ledger")).status_code == 200


@pytest.mark.skipif(find_spec("sniffio") is not None, reason="sniffio is installed here")
def test_a_missing_sniffio_is_marked_as_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "sniffio", raising=False)

    http_clients.mark_sniffio_absent()
    http_clients.mark_sniffio_absent()

    assert sys.modules.pop("sniffio", "not marked") is None
    assert find_spec("sniffio") is None


@pytest.mark.parametrize(
    ("proxy", "host", "reached"),
    [
        ("http://proxy.example.com:3128", "delivery.bfl.ai", "delivery.bfl.ai"),
        ("http://proxy.example.com:3128", "elsewhere.example.com", PUBLIC),
        (None, "delivery.bfl.ai", PUBLIC),
    ],
)
async def test_a_proxy_resolves_the_usual_hosts_of_results(proxy: str | None, host: str, reached: str) -> None:
    hosts: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        hosts.append(request.url.host)
        return httpx.Response(200)

    client = results_client(
        httpx.MockTransport(answer),
        usual_hosts=["*.bfl.ai"],
        resolve=resolve,
        outbound=open_outbound(proxy=proxy),
    )
    async with client as http:
        await http.get(f"https://{host}/a.png")

    assert hosts == [reached]


@every_client
@pytest.mark.parametrize(
    "location",
    [
        "http://[::1",
        "https://h:abc/",
        "https://e.com/" + "a" * 70_000,
        "https://xn--/x",
        "https://xn--a.example.com/x",
        "javascript:x",
        "ftp://a/b",
        "http://",
        "https://e.com:99999/",
        "\xff",
    ],
)
async def test_a_redirect_to_an_unusable_url_is_an_answer_with_its_status(client: Client, location: str) -> None:
    def answer(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(301, headers=[(b"location", location.encode("latin-1"))])

    async with client(httpx.MockTransport(answer)) as http:
        response = await http.get("https://images.example.com/")

    assert response.status_code == 301
