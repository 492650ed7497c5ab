"""The hosts that a result may be fetched from. Pure: nothing is resolved or connected to."""

import re
from collections.abc import Iterable

import httpx

_MAX_URL = 4096  # characters
_HOST_NAME = re.compile(r"[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63})*")


def may_hold_result(url: str, *, hosts: Iterable[str], provider_origin: str) -> bool:
    """Whether a result may be fetched from `url`: https, without a port, on one of `hosts` (`name` or `*.name`).

    Any URL on `provider_origin` is allowed too, even over plain http: the operator configured that origin. A URL with a
    user name or a password is never allowed.
    """
    if len(url) > _MAX_URL:
        return False
    try:
        # httpx also opens the connection. A different parser could see a different host in the same URL.
        link, origin = httpx.URL(url), httpx.URL(provider_origin)
        link_host, origin_host = link.host, origin.host
    except (httpx.InvalidURL, ValueError):
        return False
    if link.userinfo or not link_host:
        return False
    if (link.scheme, link_host, link.port) == (origin.scheme, origin_host, origin.port):
        return True
    if link.scheme != "https" or link.port is not None:
        return False
    host = link.raw_host.decode("ascii").removesuffix(".")
    return _HOST_NAME.fullmatch(host) is not None and any(_matches(host, pattern) for pattern in hosts)


def _matches(host: str, pattern: str) -> bool:
    if pattern.startswith("*."):
        return host.endswith(pattern[1:].lower())
    return host == pattern.lower()
