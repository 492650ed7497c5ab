"""What a start needs around it, looked at first: what is missing ends it with one sentence that names the setting."""

import errno
import os
import socket
from pathlib import Path
from typing import Any

from app.errors import ConfigurationError, Unavailable
from app.settings import Settings
from app.wiring import key_ring, open_store


def require(settings: Settings) -> None:
    """See that DATA_DIR, the secret keys and the store can be used, made if need be. Raises ConfigurationError."""
    require_data_dir(settings)
    key_ring(settings)
    try:
        open_store(settings)
    except Unavailable as error:
        name = "DATA_DIR" if settings.store_url is None else "STORE_URL"
        raise ConfigurationError(f"FLUXHOOK_{name}: {error.detail}") from error


def require_data_dir(settings: Settings) -> None:
    """Make DATA_DIR, if need be. Raises ConfigurationError."""
    folder = settings.data_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"FLUXHOOK_DATA_DIR: {folder} cannot be made by {me()}: {error.strerror}") from error
    if not is_writable(folder):
        raise ConfigurationError(f"FLUXHOOK_DATA_DIR: {folder} cannot be written by {me()}")


def require_address(settings: Settings) -> None:
    """See that HOST and PORT can be listened on, before a worker has begun to work. Raises ConfigurationError."""
    why = _refusal(settings.host, settings.port)
    if why is not None:
        where = f"{settings.host}:{settings.port}"
        raise ConfigurationError(f"FLUXHOOK_HOST, FLUXHOOK_PORT: {where} cannot be listened on: {why}")


def _refusal(host: str, port: int) -> str | None:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        bound = [_can_be_bound(family, address) for family, _, _, _, address in found]
    except OSError as error:
        return error.strerror
    except UnicodeError:
        return "that is no name of a host"
    return None if any(bound) else os.strerror(errno.EADDRNOTAVAIL)


def _can_be_bound(family: int, address: Any) -> bool:
    """As the server will bind it; False for an address that this machine does not have, as `::1` without IPv6."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno not in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
            raise
        return False
    return True


def is_writable(folder: Path) -> bool:
    """Whether files can be made in it; also False when it is no folder."""
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def me() -> str:
    """Who this process is: a number, as a container's user has no name, and as `chown` takes it."""
    return f"user {os.geteuid()}"
