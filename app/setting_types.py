"""The types of values that the settings and the configuration file share, with the checks of such values."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic import SecretStr as Secret

from app.errors import ConfigurationError

_MIN_ADMIN_KEY = 24
_HOST = re.compile(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_BUDGET = re.compile(r"\d+(\.\d+)?/(day|month)", re.ASCII)


def _base_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username is not None:
        raise ValueError("must be an http(s) URL such as https://fluxhook.example.com")
    if "?" in url or "#" in url:
        raise ValueError("must not have a query or a fragment: remove everything after the path")
    _ = parts.port  # raises ValueError if it is out of range
    if any(character.isspace() for character in url):
        raise ValueError("must not contain spaces")
    return url.rstrip("/")


def check_provider_key(key: Secret) -> Secret:
    """Return the key of a provider account. Raises ValueError if it cannot be sent in a header."""
    text = key.get_secret_value()
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("must be printable ASCII without spaces or line breaks, because it is sent in an HTTP header")
    if not text.strip("."):
        raise ValueError("is the placeholder of the instructions: set it to the API key of your provider account")
    return key


Url = Annotated[str, AfterValidator(_base_url)]
ProviderKey = Annotated[Secret, AfterValidator(check_provider_key)]


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _valid_admin_key(key: Secret) -> Secret:
    """Allow spaces inside the key, because some installations use such keys, but not around it: HTTP strips those."""
    text = key.get_secret_value()
    if not text.isascii() or not text.isprintable() or text != text.strip():
        raise ValueError("must be printable ASCII without spaces around it, because clients send it in an HTTP header")
    if len(text) < _MIN_ADMIN_KEY:
        raise ValueError(
            f"must have at least {_MIN_ADMIN_KEY} characters, because it opens everything; create one with "
            "`openssl rand -hex 24`"
        )
    return key


def _valid_proxy_url(url: Secret) -> Secret:
    text = url.get_secret_value()
    try:
        parts = urlsplit(text)
        has_origin = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # its message may show a part of the password
        has_origin = False
    if not has_origin or parts.path.strip("/") or "?" in text or "#" in text:
        raise ValueError(
            "must be the URL of an http(s) proxy such as http://proxy.example.com:3128, without a path; "
            "special characters of the user name and the password must be percent-encoded"
        )
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("must be printable ASCII without spaces")
    return url


def _valid_budget(text: str) -> str:
    if not _BUDGET.fullmatch(text):
        raise ValueError("must be credits per day or month, such as 400/day or 12000/month")
    return text


def _valid_contact(contact: str) -> str:
    if not contact.isascii() or not contact.isprintable() or set(contact) & set(" ()"):
        raise ValueError("must be printable ASCII without spaces or brackets, because it is sent in an HTTP header")
    return contact


def _valid_host_name(name: str) -> str:
    if not _HOST.fullmatch(name):
        raise ValueError("must be host names such as cdn.example.com or *.example.com, without scheme, port or path")
    return name


def as_text(value: object) -> str | None:
    """Return a value as an environment variable holds it; None for a setting without a value. Not for secrets."""
    if value is None or value == ():
        return None
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


ProxyUrl = Annotated[Secret, AfterValidator(_valid_proxy_url)]
Hosts = Annotated[tuple[Annotated[str, AfterValidator(_valid_host_name)], ...], BeforeValidator(_split)]
Secrets = Annotated[tuple[Secret, ...], BeforeValidator(_split)]
Networks = Annotated[
    tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...], BeforeValidator(_split), Field(default=())
]
# An address is a network of its own.
TrustedNetworks = Annotated[tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...], BeforeValidator(_split)]
LOOPBACK = (ipaddress.IPv4Network("127.0.0.1"), ipaddress.IPv6Network("::1"))
AdminKey = Annotated[Secret, AfterValidator(_valid_admin_key)]
Budget = Annotated[str, AfterValidator(_valid_budget)]
Contact = Annotated[str, AfterValidator(_valid_contact)]


def names_private_host(host: str) -> bool:
    """Whether a host is reachable only from a private network, judged by its name or IP address alone."""
    host = host.rstrip(".").lower()
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        private_suffixes = (".localhost", ".local", ".internal", ".lan", ".home.arpa")
        return "." not in host or host.endswith(private_suffixes) or _is_numeric_ipv4(host)


def is_on_private_host(url: str) -> bool:
    """Whether a URL is on a private host, as that of the twin is, so that it is not a real provider's."""
    return names_private_host(urlsplit(url).hostname or "")


def sends_key_in_clear(url: str) -> bool:
    """Whether the API key would be sent without encryption to a public host."""
    return urlsplit(url).scheme == "http" and not is_on_private_host(url)


def read_secret(name: str, path: Path) -> str:
    """Return the content of a file without the line end at its end.

    Raises ConfigurationError, which begins with `name`: what named the file.
    """
    try:
        text = path.read_text().removesuffix("\n").removesuffix("\r")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigurationError(f"{name}: {path} cannot be read: {why}") from error
    if not text:
        raise ConfigurationError(f"{name}: {path} is empty")
    return text


def _is_numeric_ipv4(host: str) -> bool:
    """Whether this is an IPv4 address in a form that only resolvers accept: 127.1, 0x7f.0.0.1, 2130706433."""
    last = host.rpartition(".")[2]
    return last.isdecimal() or last.startswith("0x")
