"""The URLs that a provider names, judged by their text: for its results, and for its API key. Pure: no lookups."""

import re
from collections.abc import Iterable

import httpx

_MAX_URL = 4096  # characters
_HOST_NAME = re.compile(r"[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63})*")


def is_on(url: str, *, hosts: Iterable[str], origin: str = "") -> bool:
    """Whether `url` is https, without a port, on one of `hosts`, or on `origin`, which may use plain http.

    A host is `name` or `*.name`; elsewhere in a name, `*` stands for one label. A URL with a user name or a password is
    on none of them.
    """
    link = _parsed(url)
    if link is None:
        return False
    if _same_origin(link, origin):
        return True
    if link.scheme != "https" or link.port is not None:
        return False
    host = link.raw_host.decode("ascii").removesuffix(".")
    return _HOST_NAME.fullmatch(host) is not None and any(_matches(host, pattern.lower()) for pattern in hosts)


def is_on_any(url: str, origins: Iterable[str]) -> bool:
    """Whether `url` is on one of these origins."""
    link = _parsed(url)
    return link is not None and any(_same_origin(link, origin) for origin in origins)


def unusable(url: str, *, hosts: Iterable[str], origins: Iterable[str]) -> str | None:
    """Return why a result must not be fetched from `url`, or None.

    The provider's own word proves the link, so any host may hold a result, unless `hosts` lists the only ones. Whether
    its address is public, and plain http, is up to the SSRF guard.
    """
    link = _parsed(url)
    if link is None or link.scheme not in {"http", "https"}:
        return "the link is not a usable http(s) URL"
    if hosts and not (is_on(url, hosts=hosts) or is_on_any(url, origins)):
        return f"the link is on {link.host}, which FLUXHOOK_RESULT_HOSTS does not list"
    return None


def _parsed(url: str) -> httpx.URL | None:
    """Parse a URL with a host and without a user name. None for any other text."""
    if len(url) > _MAX_URL:
        return None
    try:
        # httpx also opens the connection. A different parser could see a different host in the same URL.
        link = httpx.URL(url)
        return link if link.host and not link.userinfo else None
    except (httpx.InvalidURL, ValueError):  # ValueError: an invalid `xn--` name
        return None


def _same_origin(link: httpx.URL, origin: str) -> bool:
    own = _parsed(origin)
    return own is not None and (link.scheme, link.host, link.port) == (own.scheme, own.host, own.port)


def _matches(host: str, pattern: str) -> bool:
    if pattern.startswith("*."):
        return host.endswith(pattern[1:])
    labels, expected = host.split("."), pattern.split(".")
    return len(labels) == len(expected) and all(map(_label_matches, labels, expected))


def _label_matches(label: str, expected: str) -> bool:
    return expected in {"*", label}
