"""The address of a PostgreSQL database as hosts hand it out and pg_dump reads it, in the terms of the driver."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.errors import ConfigurationError

_SQLALCHEMYS = frozenset(
    {
        *("host", "port", "user", "password", "database", "prepared_statement_cache_size"),
        *("ssl", "direct_tls", "servicefile", "command_timeout"),  # arguments of the driver that may be text
    }
)
# What asyncpg reads in an address of its own; in keyword arguments it has no place for most of them.
_THE_DRIVERS = frozenset(
    {
        *("dbname", "passfile", "service", "target_session_attrs", "krbsrvname", "gsslib"),
        *("sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword", "sslnegotiation"),
        *("ssl_min_protocol_version", "ssl_max_protocol_version"),
        *("application_name", "options"),  # which it hands on to the server
    }
)
_SHOWN = (_SQLALCHEMYS | _THE_DRIVERS) - {"password", "sslpassword"}
_FILES = frozenset({"sslrootcert", "sslcert", "sslkey", "sslcrl"})
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


def make_engine(url: str, **options: Any) -> AsyncEngine:
    """An engine for `postgresql://...`, with whatever options. Raises ConfigurationError where it is none."""
    try:
        address = make_url(url).set(drivername="postgresql+asyncpg")
    except (ArgumentError, ValueError):  # ValueError: a port that is no number
        raise _wrong("is no address of a database") from None  # what they say may show a password
    connecting = _translated(address.query)
    address = address.set(query={name: value for name, value in address.query.items() if name in _SQLALCHEMYS})
    return create_async_engine(address, connect_args=connecting, **options)


def without_secrets(url: str) -> str | None:
    """The address, of either database, with no password in it; None where it cannot be told what is one."""
    if url.count("@") > 1:  # part of a password that has an @ in it would pass for the host
        return None
    try:
        address = make_url(url)
    except (ArgumentError, ValueError):
        return None
    query = {name: value for name, value in address.query.items() if name in _SHOWN}
    return address.set(query=query).render_as_string(hide_password=True)


def _translated(query: Mapping[str, Any]) -> dict[str, Any]:
    """The driver's arguments for what it does not find in SQLAlchemy's form of an address."""
    given = {
        name: value if isinstance(value, str) else value[-1]
        for name, value in query.items()
        if name not in _SQLALCHEMYS
    }
    _check_encryption(given)
    if given.pop("channel_binding", "prefer") not in {"disable", "prefer"}:
        raise _wrong("the driver binds no channel: leave channel_binding out, sslmode=verify-full proves the server")
    arguments: dict[str, Any] = {}
    if "connect_timeout" in given:
        arguments["timeout"] = _seconds(given.pop("connect_timeout"))
    unknown = sorted(given.keys() - _THE_DRIVERS)
    if unknown:
        raise _wrong(f"there is no parameter {', '.join(unknown)}")
    return {**arguments, "dsn": f"postgresql://?{urlencode(given)}"} if given else arguments


def _check_encryption(given: Mapping[str, str]) -> None:
    """What the driver would find out when it connects, where a mistake looks like a database that is away."""
    mode = given.get("sslmode", "prefer")
    if mode not in _SSL_MODES:
        raise _wrong(f"sslmode must be one of {', '.join(_SSL_MODES)}")
    if mode.startswith("verify-") and "sslrootcert" not in given:
        raise _wrong(f"sslmode={mode} needs sslrootcert, the file with the authority's certificate")
    for name in _FILES & given.keys():
        if not Path(given[name]).is_file():
            raise _wrong(f"{name} names no file")


def _seconds(text: str) -> int | None:
    """As libpq has it: 0 or less is for ever."""
    try:
        return int(text) if int(text) > 0 else None
    except ValueError:
        raise _wrong("connect_timeout must be a number of seconds") from None


def _wrong(why: str) -> ConfigurationError:
    return ConfigurationError(f"FLUXHOOK_DATABASE_URL: {why}")
