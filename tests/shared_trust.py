"""One TLS context for all HTTP clients of a test run that have no context of their own.

httpx loads the authorities' certificates again for each client, which takes 20 ms of CPU: more than most tests.
"""

import os
import ssl
from functools import lru_cache
from typing import Any

import httpx
from httpx._transports import default as transports

_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR")  # httpx reads them for each context


def install() -> None:
    """Make every client created from now on use the shared context, unless it is given one.

    The service gives its clients a context of its own (`app/security/outbound.py`), which is not shared.
    """
    assert vars(transports)["create_ssl_context"] is httpx.create_ssl_context
    vars(transports)["create_ssl_context"] = _create


def _create(verify: Any = True, cert: Any = None, trust_env: bool = True) -> ssl.SSLContext:
    if verify is not True or cert is not None:
        return httpx.create_ssl_context(verify=verify, cert=cert, trust_env=trust_env)
    return _shared(trust_env, *map(os.environ.get, _VARIABLES))


@lru_cache
def _shared(trust_env: bool, *_: str | None) -> ssl.SSLContext:
    return httpx.create_ssl_context(trust_env=trust_env)
