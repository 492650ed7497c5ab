"""The clients for outgoing requests: one function for each kind of destination, and what all of them share.

Every client uses the same `Outbound`, no cookies and no redirects, and asks for unencoded bodies. Without an `Outbound`
it trusts the public authorities, and connects directly.
"""

import sys
from collections.abc import Mapping, Sequence
from http.cookiejar import CookieJar, DefaultCookiePolicy
from importlib.util import find_spec

import httpx

from app.security.host_pools import KEPT, HostPools
from app.security.outbound import Outbound, open_outbound
from app.security.ssrf import GuardedTransport, Network, Resolve, resolve_host

_NO_KEEPALIVE = httpx.Limits(max_connections=None, max_keepalive_connections=0)


def provider_client(
    transport: httpx.AsyncBaseTransport | None = None, *, outbound: Outbound | None = None
) -> httpx.AsyncClient:
    """Return a client for the provider's API, with a new connection for each request.

    A reused connection that the provider has just closed fails after the request was sent. That looks like a lost
    response, and would make a task wait for evidence without need. `provider.http.send` limits the whole exchange.
    """
    return _client(transport or _transport(_NO_KEEPALIVE, outbound), httpx.Timeout(None, connect=10))


def results_client(
    transport: httpx.AsyncBaseTransport | None = None,
    *,
    allowed: Sequence[Network] = (),
    origins: Sequence[str] = (),
    usual_hosts: Sequence[str] = (),
    resolve: Resolve = resolve_host,
    outbound: Outbound | None = None,
) -> httpx.AsyncClient:
    """Return a client for the provider's links: no key, and only public addresses over https.

    Exceptions are the networks in `allowed` and the providers' `origins`, both configured by the operator. A proxy
    resolves the names of `usual_hosts` (`name` or `*.name`): behind one, public names often cannot be resolved here.
    """
    inner = transport or HostPools(lambda: _transport(KEPT, outbound))
    by_name = usual_hosts if outbound is not None and outbound.proxy is not None else ()
    guarded = GuardedTransport(
        allowed, inner, resolve=resolve, plain_http=False, origins=origins, unchecked_hosts=by_name
    )
    return _client(guarded, httpx.Timeout(30, connect=10), {"user-agent": "fluxhook"})


def guarded_client(
    allowed: Sequence[Network],
    transport: httpx.AsyncBaseTransport | None = None,
    *,
    resolve: Resolve = resolve_host,
    plain_http: bool = True,
    outbound: Outbound | None = None,
) -> httpx.AsyncClient:
    """Return a client for URLs that an application names: it connects to public addresses and to `allowed` networks.

    With `plain_http=False`, plain http is refused unless the address is in `allowed`. `transport` opens the connections
    to checked addresses.
    """
    inner = transport or HostPools(lambda: _transport(KEPT, outbound))
    guarded = GuardedTransport(allowed, inner, resolve=resolve, plain_http=plain_http)
    return _client(guarded, httpx.Timeout(15, connect=5), {"user-agent": "fluxhook"})


def own_url_client(outbound: Outbound) -> httpx.AsyncClient:
    """Return a client for the URL of this service."""
    return _client(_transport(_NO_KEEPALIVE, outbound), httpx.Timeout(10))


def mark_sniffio_absent() -> None:
    """Make each `import sniffio` fail at once if the package is not installed. Call it once, when a process starts.

    httpx and httpcore try this import six times for each request. Python does not cache a failed import, and searches
    the whole path again: 0.5 ms or more for each request, a fifth of its CPU time.
    """
    if "sniffio" not in sys.modules and find_spec("sniffio") is None:
        sys.modules["sniffio"] = None  # type: ignore[assignment] # an import of it raises ModuleNotFoundError


def _client(
    transport: httpx.AsyncBaseTransport, timeout: httpx.Timeout, headers: Mapping[str, str] | None = None
) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=transport,
        trust_env=False,
        follow_redirects=False,
        # Otherwise, cookies of responses accumulate in memory and are sent with later requests for other applications.
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        headers={"accept-encoding": "identity", **(headers or {})},
        timeout=timeout,
        event_hooks={"response": [_drop_unusable_location]},
    )


async def _drop_unusable_location(response: httpx.Response) -> None:
    """Remove a `Location` that cannot be requested, so that the status of the response is read.

    httpx builds the request to it even if redirects are not followed, and raises errors of several kinds.
    """
    location = response.headers.get("location")
    if location is None:
        return
    try:
        url = httpx.URL(location)
        if url.scheme and not url.host:
            url = url.copy_with(host=response.request.url.host)
        httpx.Request("GET", response.request.url.join(url))
    except (httpx.InvalidURL, ValueError):  # ValueError: a bad `xn--` name
        del response.headers["location"]


def _transport(limits: httpx.Limits, outbound: Outbound | None) -> httpx.AsyncHTTPTransport:
    return (outbound or open_outbound()).transport(limits)
