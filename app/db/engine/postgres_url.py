"""Translates a `postgresql://` URL, as hosting providers and pg_dump write it, to the arguments of asyncpg."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from app.db.engine.async_engine import AsyncEngine, create_async_engine
from app.errors import ConfigurationError

if TYPE_CHECKING:
    from app.db.engine.connector import Connector

DATABASE_URL, DIRECT_URL = "FLUXHOOK_DATABASE_URL", "FLUXHOOK_DATABASE_DIRECT_URL"  # the settings
_FOR_SQLALCHEMY = frozenset(
    {
        *("host", "port", "user", "password", "database", "prepared_statement_cache_size"),
        *("ssl", "direct_tls", "servicefile", "command_timeout"),  # keyword arguments of the driver that accept text
    }
)
# What asyncpg reads from a DSN; most of these have no keyword argument.
_FOR_DRIVER = frozenset(
    {
        *("dbname", "passfile", "service", "target_session_attrs", "krbsrvname", "gsslib"),
        *("sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword", "sslnegotiation"),
        *("ssl_min_protocol_version", "ssl_max_protocol_version"),
        *("application_name", "options"),  # passed on to the server
    }
)
_SHOWN = (_FOR_SQLALCHEMY | _FOR_DRIVER) - {"password", "sslpassword"}
_FILES = frozenset({"sslrootcert", "sslcert", "sslkey", "sslcrl"})
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


def make_engine(url: str, connector: "Connector", setting: str = DATABASE_URL, **options: Any) -> AsyncEngine:
    """Return an engine for `postgresql://...` that opens its connections with `connector`.

    `options` go to SQLAlchemy. Raises ConfigurationError, which names `setting`, if the URL is wrong.
    """
    try:
        address = make_url(url).set(drivername="postgresql+asyncpg")
        connecting = _translated(address.query)
    except (ArgumentError, ValueError):  # ValueError: the port is not a number
        raise ConfigurationError(f"{setting}: is not a database URL") from None  # the original may show the password
    except _Wrong as wrong:
        raise ConfigurationError(f"{setting}: {wrong}") from None
    address = address.set(query={name: value for name, value in address.query.items() if name in _FOR_SQLALCHEMY})
    connecting["async_creator_fn"] = connector.connect  # SQLAlchemy calls it with the arguments of `asyncpg.connect`
    return create_async_engine(address, connect_args=connecting, **options)


def without_secrets(url: str) -> str | None:
    """Return the URL, of either database, without passwords, or None if a password cannot be told from the rest."""
    if url.count("@") > 1:  # part of a password with an @ in it would be shown as the host
        return None
    try:
        address = make_url(url)
    except (ArgumentError, ValueError):
        return None
    query = {name: value for name, value in address.query.items() if name in _SHOWN}
    return address.set(query=query).render_as_string(hide_password=True)


def _translated(query: Mapping[str, Any]) -> dict[str, Any]:
    """Return the driver's arguments for the parameters that SQLAlchemy does not pass on."""
    parameters = {
        name: value if isinstance(value, str) else value[-1]
        for name, value in query.items()
        if name not in _FOR_SQLALCHEMY
    }
    _check_encryption(parameters)
    if parameters.pop("channel_binding", "prefer") not in {"disable", "prefer"}:
        raise _Wrong(
            "channel binding is not supported: leave channel_binding out; sslmode=verify-full proves the server"
        )
    arguments: dict[str, Any] = {}
    if "connect_timeout" in parameters:
        arguments["timeout"] = _seconds(parameters.pop("connect_timeout"))
    unknown = sorted(parameters.keys() - _FOR_DRIVER)
    if unknown:
        raise _Wrong(f"unknown parameter {', '.join(unknown)}")
    return {**arguments, "dsn": f"postgresql://?{urlencode(parameters)}"} if parameters else arguments


def _check_encryption(parameters: Mapping[str, str]) -> None:
    """Check what the driver checks only when it connects, as an error there looks like an outage of the database."""
    mode = parameters.get("sslmode", "prefer")
    if mode not in _SSL_MODES:
        raise _Wrong(f"sslmode must be one of {', '.join(_SSL_MODES)}")
    if mode.startswith("verify-") and "sslrootcert" not in parameters:
        raise _Wrong(f"sslmode={mode} needs sslrootcert, the file with the certificate of the authority")
    for name in _FILES & parameters.keys():
        if not Path(parameters[name]).is_file():
            raise _Wrong(f"the file of {name} does not exist")


def _seconds(text: str) -> int | None:
    """Read a timeout in seconds as libpq does: 0 or less means no timeout (None)."""
    try:
        return int(text) if int(text) > 0 else None
    except ValueError:
        raise _Wrong("connect_timeout must be a number of seconds") from None


class _Wrong(Exception):
    """A parameter of the URL is wrong; the text gives the reason."""
