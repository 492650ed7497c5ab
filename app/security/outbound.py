"""How outgoing connections are made: the authorities that are trusted, and a proxy for public addresses."""

import ssl
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import httpcore
import httpx

from app.errors import ConfigurationError
from app.setting_types import names_private_host

_SUCCESS = range(200, 300)


@dataclass(frozen=True, slots=True)
class Outbound:
    """What all clients for outgoing requests of a process share."""

    tls: ssl.SSLContext
    proxy: httpx.URL | None = None  # http or https, with the user name and the password in it

    def transport(self, limits: httpx.Limits) -> httpx.AsyncHTTPTransport:
        """Return a transport that opens its own connections; it ignores the proxy variables of the environment."""
        if self.proxy is None:
            return httpx.AsyncHTTPTransport(verify=self.tls, trust_env=False, limits=limits)
        return _TunnelledTransport(self.tls, self.proxy, limits)


def open_outbound(ca_file: Path | None = None, proxy: str | None = None) -> Outbound:
    """Read the file of trusted authorities, and the URL of the proxy. Raises ConfigurationError."""
    try:
        proxy_url = None if proxy is None else httpx.URL(proxy)
    except httpx.InvalidURL:
        raise ConfigurationError("FLUXHOOK_HTTPS_PROXY: its host is not valid") from None  # the URL may hold a password
    return Outbound(trusted(ca_file), proxy_url)


@cache
def trusted(ca_file: Path | None = None) -> ssl.SSLContext:
    """Return a TLS context that trusts the public authorities and, in addition, those in a PEM file.

    Cached, because loading the certificates takes tens of milliseconds and megabytes. Raises ConfigurationError.
    """
    context = httpx.create_ssl_context(trust_env=False)
    if ca_file is None:
        return context
    try:
        context.load_verify_locations(cafile=ca_file)
    except ssl.SSLError as error:
        raise ConfigurationError(
            f"FLUXHOOK_CA_FILE: {ca_file} must contain certificates in PEM form, and nothing else"
        ) from error
    except OSError as error:
        raise ConfigurationError(f"FLUXHOOK_CA_FILE: {ca_file} cannot be read: {error.strerror}") from error
    # Python 3.13 and later refuse authorities that lack some extensions, as those of many companies do, and accept an
    # intermediate authority without its root. Other versions do the opposite; here, all of them accept both.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


class Tunnels(httpcore.AsyncNetworkBackend):
    """Opens connections through a proxy, by CONNECT. Private hosts are connected to directly.

    All failures to open a tunnel are ConnectError or ConnectTimeout, as the request has not been sent.

    The tunnel of httpcore itself would check the certificate against the address that it connects to: it does not
    support `sni_hostname`, which the SSRF guard needs.
    """

    def __init__(self, tls: ssl.SSLContext, proxy: httpx.URL) -> None:
        self._direct = httpcore.AnyIOBackend()
        self._tls = tls
        default_port = 443 if proxy.scheme == "https" else 80
        self._origin = httpcore.Origin(proxy.raw_scheme, proxy.raw_host, proxy.port or default_port)
        self._headers = [("Proxy-Authorization", f"Basic {_credentials(proxy)}")] if proxy.userinfo else []

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the interface of httpcore
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        if names_private_host(host):
            return await self._direct.connect_tcp(host, port, timeout, local_address, socket_options)
        connection = httpcore.AsyncHTTPConnection(self._origin, ssl_context=self._tls, network_backend=self._direct)
        try:
            response = await connection.handle_async_request(self._connect(host, port, timeout))
        except httpcore.TimeoutException as error:
            raise httpcore.ConnectTimeout("the proxy does not answer") from error
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            raise httpcore.ConnectError(f"the proxy cannot be used: {error}") from error
        if response.status not in _SUCCESS:
            await connection.aclose()
            raise httpcore.ConnectError(f"the proxy refuses the connection: HTTP {response.status}")
        stream: httpcore.AsyncNetworkStream = response.extensions["network_stream"]
        return stream

    async def connect_unix_socket(self, *_args: object, **_options: object) -> httpcore.AsyncNetworkStream:
        raise NotImplementedError

    async def sleep(self, seconds: float) -> None:
        await self._direct.sleep(seconds)

    def _connect(self, host: str, port: int, timeout: float | None) -> httpcore.Request:
        target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        scheme, proxy_host, proxy_port = self._origin.scheme, self._origin.host, self._origin.port
        return httpcore.Request(
            "CONNECT",
            httpcore.URL(scheme=scheme, host=proxy_host, port=proxy_port, target=target.encode("ascii")),
            headers=[("Host", target), *self._headers],
            extensions={"timeout": dict.fromkeys(("connect", "read", "write", "pool"), timeout)},
        )


class _TunnelledTransport(httpx.AsyncHTTPTransport):
    def __init__(self, tls: ssl.SSLContext, proxy: httpx.URL, limits: httpx.Limits) -> None:
        super().__init__(verify=tls, trust_env=False)
        # httpx has no parameter for it.
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls,
            max_connections=limits.max_connections,
            max_keepalive_connections=limits.max_keepalive_connections,
            keepalive_expiry=limits.keepalive_expiry,
            network_backend=Tunnels(tls, proxy),
        )


def _credentials(proxy: httpx.URL) -> str:
    return b64encode(f"{unquote(proxy.username)}:{unquote(proxy.password)}".encode()).decode("ascii")
