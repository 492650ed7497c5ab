"""Where our requests may go when somebody else names the address.

Two rules. An application's address is resolved once, every address it has must be public, and the connection
goes to the very address that was checked. A result's link must name a host that the provider promised.
"""

import asyncio
import ipaddress
import re
import socket
import ssl
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from importlib.util import find_spec

import httpx

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# The well-known prefix alone (RFC 6052). In the local one (RFC 8215) the IPv4 address may lie anywhere.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# Not public, though `ipaddress` says so in all or some of its versions.
_NEVER = (
    ipaddress.ip_network("192.0.0.0/24"),  # IETF protocol assignments; a cloud keeps its metadata at 192.0.0.192
    ipaddress.ip_network("168.63.129.16"),  # what Azure tells its machines
    ipaddress.ip_network("64:ff9b:1::/48"),
    ipaddress.ip_network("3fff::/20"),  # documentation, RFC 9637
    ipaddress.ip_network("fec0::/10"),  # site-local, RFC 3879
)
_MAX_URL = 4096
_LAST_PORT = 65535
_UNREACHABLE = "the host cannot be reached"
_LOOKUPS = 256  # threads, made as they are needed: a resolver holds one for half a minute where nobody answers
_LOOKUP_S = 5
_NOTHING_KEPT = httpx.Limits(max_connections=None, max_keepalive_connections=0)
_NAME = re.compile(r"[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63})*")

# httpx looks for this package six times in a request, and where it is not, all of the path is searched each time.
if "sniffio" not in sys.modules and find_spec("sniffio") is None:
    sys.modules["sniffio"] = None  # type: ignore[assignment] # as Python has it for "not to be found"


# The addresses of a host, as text, for a port.
Resolve = Callable[[str, int], Sequence[str]]


class EgressRefused(httpx.ConnectError):
    """The address lies where an application has no business. Looks like any host that cannot be reached."""


def _look_up(host: str, port: int) -> list[str]:
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


@cache
def tls() -> ssl.SSLContext:
    """The certificates that are trusted, read once for all clients: that takes tens of milliseconds, and megabytes."""
    return httpx.create_ssl_context(trust_env=False)


def no_cookies() -> CookieJar:
    """A jar that takes nothing, for every client that lives long.

    Else each answer could leave cookies in memory, sent to their host again whoever the next request is made for.
    """
    return CookieJar(DefaultCookiePolicy(allowed_domains=()))


class GuardedTransport(httpx.AsyncBaseTransport):
    """Connects to a checked address alone; host name, TLS name and certificate check stay as they were.

    No connection is used twice: it would be found again by its address, and one that was made for another name at
    that address has shown another certificate.
    """

    def __init__(
        self,
        allowed: Sequence[Network],
        inner: httpx.AsyncBaseTransport | None = None,
        *,
        resolve: Resolve = _look_up,
        plain_http: bool = True,
    ) -> None:
        self._allowed = allowed
        self._inner = inner or httpx.AsyncHTTPTransport(verify=tls(), trust_env=False, limits=_NOTHING_KEPT)
        self._resolve = resolve
        self._plain_http = plain_http
        # Of its own: names that nobody answers for must not keep other names, or files, waiting.
        self._lookups = ThreadPoolExecutor(_LOOKUPS, "lookup")

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        host = request.url.raw_host.decode("ascii")  # as it stands in the Host header and in certificates
        secure = request.url.scheme == "https"
        address = await self._checked_address(host, request.url.port or (443 if secure else 80))
        if not secure and not self._plain_http and not _lies_in(address, self._allowed):
            raise EgressRefused(_UNREACHABLE)
        request.extensions = {**request.extensions, "sni_hostname": host}
        request.url = request.url.copy_with(host=str(address))
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        self._lookups.shutdown(wait=False, cancel_futures=True)
        await self._inner.aclose()

    async def _checked_address(self, host: str, port: int) -> Address:
        try:
            async with asyncio.timeout(_LOOKUP_S):
                found = await asyncio.get_running_loop().run_in_executor(self._lookups, self._resolve, host, port)
            addresses = [ipaddress.ip_address(text.partition("%")[0]) for text in found]
        except (OSError, ValueError, OverflowError) as error:
            raise EgressRefused(_UNREACHABLE) from error
        # A socket takes no larger port, and says so with an OverflowError.
        if port > _LAST_PORT:
            raise EgressRefused(_UNREACHABLE)
        # One private address among public ones is refused too: which one is taken must not be luck.
        if not addresses or not all(is_permitted(address, self._allowed) for address in addresses):
            raise EgressRefused(_UNREACHABLE)
        return addresses[0]


def is_permitted(address: Address, allowed: Iterable[Network]) -> bool:
    """Whether this address is public, seen through every form that hides another one, or is listed."""
    if _lies_in(address, allowed):
        return True
    hidden = _embedded(address)
    if hidden is not None:
        return is_permitted(hidden, allowed)
    if any(address in network for network in _NEVER):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _lies_in(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)


def _embedded(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address inside an IPv6 one: mapped, 6to4, Teredo or NAT64."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address.teredo is not None:
        return address.teredo[1]
    return address.ipv4_mapped or address.sixtofour


def unusable(url: str) -> str | None:
    """What keeps this text from being an address that an application may name; None when nothing does.

    No name is looked up: what is blocked and what is not there must look alike.
    """
    try:
        asked = httpx.URL(url)
        host, port = asked.host, asked.port
    except (httpx.InvalidURL, ValueError):  # ValueError: a broken `xn--` name
        return "must be an http(s) address"
    if asked.scheme not in {"http", "https"} or not host or not url.isascii() or not url.isprintable() or " " in url:
        return "must be an http(s) address"
    if asked.userinfo:
        return "must not hold a user name or a password"
    if "#" in url:
        return "must not have a fragment"
    return "must have a port below 65536" if port is not None and port > _LAST_PORT else None


def guarded_client(
    allowed: Sequence[Network],
    inner: httpx.AsyncBaseTransport | None = None,
    *,
    resolve: Resolve = _look_up,
    plain_http: bool = True,
) -> httpx.AsyncClient:
    """A client for addresses that an application names: no cookies, no redirects, no proxy variables.

    Without `plain_http` everything but `allowed` networks is asked over TLS, or not at all.
    """
    return httpx.AsyncClient(
        transport=GuardedTransport(allowed, inner, resolve=resolve, plain_http=plain_http),
        trust_env=False,
        follow_redirects=False,
        cookies=no_cookies(),
        headers={"accept-encoding": "identity", "user-agent": "fluxhook"},
        timeout=httpx.Timeout(15, connect=5),
    )


def may_hold_result(url: str, *, hosts: Iterable[str], provider_origin: str) -> bool:
    """Whether a result may be fetched from here: https on a promised host (`name` or `*.name`).

    Plain http serves only where the operator configured it: on the provider's own origin, as with the twin.
    """
    if len(url) > _MAX_URL:
        return False
    try:
        # The parser of the client that will connect: two parsers may see two hosts in one address.
        asked, ours = httpx.URL(url), httpx.URL(provider_origin)
        asked_at, ours_at = asked.host, ours.host
    except (httpx.InvalidURL, ValueError):
        return False
    if asked.userinfo or not asked_at:
        return False
    if (asked.scheme, asked_at, asked.port) == (ours.scheme, ours_at, ours.port):
        return True
    if asked.scheme != "https" or asked.port is not None:
        return False
    host = asked.raw_host.decode("ascii").removesuffix(".")
    return _NAME.fullmatch(host) is not None and any(_matches(host, pattern) for pattern in hosts)


def _matches(host: str, pattern: str) -> bool:
    if pattern.startswith("*."):
        return host.endswith(pattern[1:].lower())
    return host == pattern.lower()
