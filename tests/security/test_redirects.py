"""Redirects of a GET are followed by hand: each URL is checked before it is requested."""

from collections.abc import Callable

import httpx
import pytest

from app.security import redirects
from app.security.http_clients import guarded_client
from tests.downloads import look_up

START = "https://images.example.com/a.png"


class Refused(Exception):
    """A URL that a check refuses."""


async def followed(
    *locations: str, check: Callable[[httpx.URL], None] = lambda _: None
) -> tuple[list[httpx.Request], httpx.Response | None]:
    """Request a server that redirects to these URLs in turn; return the requests and the final response."""
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        if len(asked) <= len(locations):
            return httpx.Response(302, headers={"location": locations[len(asked) - 1]})
        return httpx.Response(200, content=b"an image")

    async with guarded_client((), httpx.MockTransport(answer), resolve=look_up) as http:
        try:
            async with redirects.get(http, START, check) as response:
                await response.aread()
        except (Refused, httpx.HTTPError):
            return asked, None
    return asked, response


@pytest.mark.parametrize("count", [0, 1, 2, 3])
async def test_up_to_three_redirects_lead_to_the_final_response(count: int) -> None:
    asked, response = await followed(*[f"/{number}.png" for number in range(count)])

    assert response is not None
    assert response.content == b"an image"
    assert [request.headers["host"] for request in asked] == ["images.example.com"] * (count + 1)


async def test_a_fourth_redirect_is_not_followed() -> None:
    asked, response = await followed(*["https://cdn.example.com/"] * 4)

    assert (len(asked), response) == (4, None)


@pytest.mark.parametrize("location", ["http://127.0.0.1/", "https://intranet.internal/", "https://[::1]/", "ftp://x/"])
async def test_each_hop_passes_the_guard(location: str) -> None:
    asked, response = await followed("https://cdn.example.com/", location)

    assert (len(asked), response) == (2, None)


async def test_each_url_is_checked_before_it_is_requested() -> None:
    seen: list[str] = []

    def check(url: httpx.URL) -> None:
        seen.append(str(url))
        if url.host == "evil.example.com":
            raise Refused

    asked, response = await followed("/b.png", "https://evil.example.com/", check=check)

    assert seen == [START, "https://images.example.com/b.png", "https://evil.example.com/"]
    assert (len(asked), response) == (2, None)
