"""Finds the proof of a callback wherever it is: which header fits the secret, and in which form. Pure."""

import base64
import hmac
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Headers = Sequence[tuple[bytes, bytes]]

_HASHES = ("sha256", "sha512", "sha1")
_MAX_TIMESTAMP = 20  # characters of a number of seconds or milliseconds


@dataclass(frozen=True, slots=True)
class FoundProof:
    """A header that only the holder of the secret can have made, and its form in words."""

    header: str
    form: str


def find(body: bytes, headers: Headers, secret: str) -> list[FoundProof]:
    """Return each header whose value is the secret, or a code that the secret makes of the body."""
    if not secret:
        return []
    codes = dict(_codes(body, headers, secret.encode()))
    found = []
    for name, value in headers:
        form = _form(value, secret.encode(), codes)
        if form is not None:
            found.append(FoundProof(name.decode("latin-1").lower(), form))
    return found


def _form(value: bytes, secret: bytes, codes: dict[bytes, str]) -> str | None:
    prefix, text = _split(value.strip())
    if hmac.compare_digest(text, secret):
        return f"the secret itself{_after(prefix)}"
    form = codes.get(text.lower()) or codes.get(text)
    return None if form is None else f"{form}{_after(prefix)}"


def _split(value: bytes) -> tuple[bytes, bytes]:
    """Return the prefix of a value, such as `sha256=`, `v1=` or `Bearer `, and the rest."""
    for mark in (b"=", b",", b" "):
        prefix, found, rest = value.partition(mark)
        if found and len(rest) >= 16 and len(prefix) <= 8 and prefix.isalnum():  # noqa: PLR2004 - not base64's padding
            return prefix + mark, rest
    return b"", value


def _after(prefix: bytes) -> str:
    return f" after `{prefix.decode('latin-1')}`" if prefix else ""


def _codes(body: bytes, headers: Headers, secret: bytes) -> Iterator[tuple[bytes, str]]:
    """Yield each code that the secret may have made, with its form."""
    messages = {"the body": body}
    for name, value in headers:
        if value.isdigit() and len(value) <= _MAX_TIMESTAMP:
            messages[f"the header {name.decode('latin-1').lower()}, a point and the body"] = value + b"." + body
    for of, message in messages.items():
        for kind in _HASHES:
            code = hmac.digest(secret, message, kind)
            yield code.hex().encode(), f"the HMAC-{kind.upper()} of {of} in hex"
            yield base64.b64encode(code), f"the HMAC-{kind.upper()} of {of} in base64"
