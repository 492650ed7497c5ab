"""Checks before a start: a missing resource ends the command with one sentence that names the setting."""

import errno
import os
import socket
import stat
from pathlib import Path
from typing import Any

from app.errors import ConfigurationError, StoreUnavailable
from app.settings import Settings
from app.wiring import build_outbound, key_ring, open_store

_OTHERS = 0o077  # the permissions of the group and of all others


def require(settings: Settings) -> None:
    """Check DATA_DIR, the secret keys and the store, and create them if missing; also check the CA file.

    Raises ConfigurationError.
    """
    require_data_dir(settings)
    key_ring(settings)
    build_outbound(settings)
    try:
        open_store(settings)
    except StoreUnavailable as error:
        name = "DATA_DIR" if settings.store_url is None else "STORE_URL"
        raise ConfigurationError(f"FLUXHOOK_{name}: {error.detail}") from error


def require_data_dir(settings: Settings) -> None:
    """Create DATA_DIR if it is missing, and check that it is writable. Raises ConfigurationError.

    DATA_DIR, and the files that this process creates from now on, are open to its user alone.
    """
    os.umask(_OTHERS)
    folder = settings.data_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _close_to_others(folder)
    except OSError as error:
        raise ConfigurationError(
            f"FLUXHOOK_DATA_DIR: {folder} cannot be created by {current_user()}: {error.strerror}"
        ) from error
    if not is_writable(folder):
        raise ConfigurationError(f"FLUXHOOK_DATA_DIR: {folder} cannot be written by {current_user()}")


def _close_to_others(folder: Path) -> None:
    """Take away what others may do in a folder of this user, which an earlier version allowed."""
    found = folder.stat()
    if found.st_uid == os.geteuid() and found.st_mode & _OTHERS:
        folder.chmod(stat.S_IMODE(found.st_mode) & ~_OTHERS)


def require_address(settings: Settings) -> None:
    """Check that HOST and PORT can be listened on, before a worker starts. Raises ConfigurationError."""
    reason = _listen_error(settings.host, settings.port)
    if reason is not None:
        address = f"{settings.host}:{settings.port}"
        raise ConfigurationError(f"FLUXHOOK_HOST, FLUXHOOK_PORT: cannot listen on {address}: {reason}")


def _listen_error(host: str, port: int) -> str | None:
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        bound = [_can_be_bound(family, address) for family, _, _, _, address in addresses]
    except OSError as error:
        return error.strerror
    except UnicodeError:
        return "not a valid host name"
    return None if any(bound) else os.strerror(errno.EADDRNOTAVAIL)


def _can_be_bound(family: int, address: Any) -> bool:
    """Bind as the server does. Return False if this machine lacks the address, such as `::1` without IPv6.

    Raises OSError for any other failure.
    """
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
    """Whether files can be created in `folder`; False if it is not a folder."""
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def current_user() -> str:
    """Return the effective user by number: a container's user may have no name, and `chown` takes the number."""
    return f"user {os.geteuid()}"
