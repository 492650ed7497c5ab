"""The SSRF guard: HTTP requests to URLs that applications or the provider name reach public addresses only.

A host name is resolved once, every address that it resolves to must be public or listed by the operator, and the
connection goes to the address that was checked.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import BoundedSemaphore

import httpx

from app.security import result_links

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Only the well-known prefix (RFC 6052): in the local-use prefix (RFC 8215) the position of the IPv4 address varies.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# Not public, although some or all versions of `ipaddress` report these networks as global.
_NEVER_PUBLIC = (
    ipaddress.ip_network("192.0.0.0/24"),  # IETF protocol assignments; Oracle Cloud serves metadata at 192.0.0.192
    ipaddress.ip_network("168.63.129.16"),  # the metadata service of Azure
    ipaddress.ip_network("64:ff9b:1::/48"),
    ipaddress.ip_network("3fff::/20"),  # documentation, RFC 9637
    ipaddress.ip_network("fec0::/10"),  # site-local, RFC 3879
)
_LAST_PORT = 65535
_UNREACHABLE = "the host cannot be reached"
_LOOKUP_THREADS = 256  # started on demand; a name server that does not answer blocks one for half a minute
_LOOKUP_TIMEOUT_S = 5
# For hosts of plain http, while a request is checked.
_MAX_HTTP_LOOKUPS = 64
_HTTP_LOOKUPS = ThreadPoolExecutor(_MAX_HTTP_LOOKUPS, "http-lookup")
_HTTP_PLACES = BoundedSemaphore(_MAX_HTTP_LOOKUPS)

# Resolves a host name and a port to addresses, as text.
Resolve = Callable[[str, int], Sequence[str]]


class EgressRefused(httpx.ConnectError):
    """The address is not permitted. The message equals that of an unreachable host, to reveal nothing about it."""


def resolve_host(host: str, port: int) -> list[str]:
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class GuardedTransport(httpx.AsyncBaseTransport):
    """Connect only to a checked address. `Host` header, SNI and certificate check still use the host name.

    `inner` must not reuse connections of another host name, as `HostPools`: a pool finds them by address, and such a
    connection has been verified against that name's certificate.

    Requests to `origins`, which the operator configured, and over https to `unchecked_hosts` are passed on unchecked.
    """

    def __init__(
        self,
        allowed: Sequence[Network],
        inner: httpx.AsyncBaseTransport,
        *,
        resolve: Resolve,
        plain_http: bool,
        origins: Sequence[str] = (),
        unchecked_hosts: Sequence[str] = (),
    ) -> None:
        self._allowed = allowed
        self._origins = origins
        self._unchecked_hosts = unchecked_hosts
        self._inner = inner
        self._resolve = resolve
        self._plain_http = plain_http
        # A separate pool: slow lookups must not block other work that uses the default thread pool.
        self._threads = ThreadPoolExecutor(_LOOKUP_THREADS, "lookup")

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = str(request.url)
        if result_links.is_on(url, hosts=self._unchecked_hosts) or result_links.is_on_any(url, self._origins):
            return await self._inner.handle_async_request(request)
        host = request.url.raw_host.decode("ascii")  # the form that the Host header and certificates use
        secure = request.url.scheme == "https"
        address = await self._checked_address(host, request.url.port or (443 if secure else 80))
        if not secure and not self._plain_http and not _is_in(address, self._allowed):
            raise EgressRefused(_UNREACHABLE)
        # A copy: a relative redirect is resolved against the URL of the original request.
        pinned = httpx.Request(
            request.method,
            request.url.copy_with(host=str(address)),
            headers=request.headers,
            stream=request.stream,
            extensions={**request.extensions, "sni_hostname": host},
        )
        return await self._inner.handle_async_request(pinned)

    async def aclose(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        await self._inner.aclose()

    async def _checked_address(self, host: str, port: int) -> Address:
        try:
            async with asyncio.timeout(_LOOKUP_TIMEOUT_S):
                found = await asyncio.get_running_loop().run_in_executor(self._threads, self._resolve, host, port)
            addresses = [ipaddress.ip_address(text.partition("%")[0]) for text in found]
        except (OSError, ValueError, OverflowError) as error:
            raise EgressRefused(_UNREACHABLE) from error
        # A socket raises OverflowError for a larger port.
        if port > _LAST_PORT:
            raise EgressRefused(_UNREACHABLE)
        # A mix of public and private addresses is refused: the outcome must not depend on their order.
        if not addresses or not all(is_permitted(address, self._allowed) for address in addresses):
            raise EgressRefused(_UNREACHABLE)
        return addresses[0]


def is_permitted(address: Address, allowed: Iterable[Network]) -> bool:
    """Whether an address is in `allowed` or public. If it embeds an IPv4 address, that address decides."""
    if _is_in(address, allowed):
        return True
    embedded = _embedded(address)
    if embedded is not None:
        return is_permitted(embedded, allowed)
    if any(address in network for network in _NEVER_PUBLIC):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def literal_address(host: str) -> Address | None:
    """Return the address that a host of a URL is, in any form that a lookup accepts, such as 127.1; None for a name."""
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except OSError:
        return None


async def takes_plain_http(host: str, port: int, allowed: Sequence[Network], resolve: Resolve = resolve_host) -> bool:
    """Whether a host can get plain http: all its addresses are permitted, and one is in an allowed network.

    A host that does not exist is answered as one that is blocked. True if the lookup fails for another reason, because
    it may succeed later, and at once if too many are under way: slow names of one application delay no other.
    """
    if not _HTTP_PLACES.acquire(blocking=False):
        return True
    looking = _HTTP_LOOKUPS.submit(resolve, host, port)
    looking.add_done_callback(lambda _: _HTTP_PLACES.release())
    try:
        async with asyncio.timeout(_LOOKUP_TIMEOUT_S):
            found = await asyncio.wrap_future(looking)
        addresses = [ipaddress.ip_address(text.partition("%")[0]) for text in found]
    except socket.gaierror as error:
        return error.errno == socket.EAI_AGAIN
    except (UnicodeError, OverflowError):
        return False  # no name that can be looked up
    except (OSError, ValueError):
        return True
    permitted = all(is_permitted(address, allowed) for address in addresses)
    return permitted and any(_is_in(address, allowed) for address in addresses)


def _is_in(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)


def _embedded(address: Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address inside an IPv6 address: mapped, 6to4, Teredo or NAT64."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address.teredo is not None:
        return address.teredo[1]
    return address.ipv4_mapped or address.sixtofour


def url_problem(url: str) -> str | None:
    """Return why an application may not use this URL, as a predicate such as "must not have a fragment", else None.

    The host is not resolved: the answer must not distinguish a blocked host from one that does not exist.
    """
    try:
        parsed = httpx.URL(url)
        host, port = parsed.host, parsed.port
    except (httpx.InvalidURL, ValueError):  # ValueError: an invalid `xn--` name
        return "must be an http(s) address"
    if parsed.scheme not in {"http", "https"} or not host or not url.isascii() or not url.isprintable() or " " in url:
        return "must be an http(s) address"
    if parsed.userinfo:
        return "must not hold a user name or a password"
    if "#" in url:
        return "must not have a fragment"
    return "must have a port below 65536" if port is not None and port > _LAST_PORT else None
