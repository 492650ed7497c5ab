"""Follow redirects by hand, so that each URL is checked before it is requested."""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager

import httpx

MAX_REDIRECTS = 3


@asynccontextmanager
async def get(
    http: httpx.AsyncClient,
    url: str,
    check: Callable[[httpx.URL], None],
    headers: Mapping[str, str] | None = None,
) -> AsyncGenerator[httpx.Response]:
    """Send a GET, follow at most three redirects, and yield the final response, whose body is not read yet.

    `check` raises for a URL that must not be requested. Headers follow to other hosts: they must hold no keys. Raises
    httpx.TooManyRedirects and what `http` raises.
    """
    request = http.build_request("GET", url, headers=headers)
    for _ in range(1 + MAX_REDIRECTS):
        check(request.url)
        if request.url.scheme not in {"http", "https"}:
            raise httpx.UnsupportedProtocol("not http(s)", request=request)
        response = await http.send(request, stream=True)
        try:
            if response.next_request is None:
                yield response
                return
        finally:
            await response.aclose()
        request = response.next_request
    raise httpx.TooManyRedirects("too many redirects", request=request)
