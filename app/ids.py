"""The only source of randomness: ids that sort by creation, keys, and jitter."""

import base64
import random  # noqa: TID251 - the one place that may
import re
import secrets  # noqa: TID251 - the one place that may
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FORM = re.compile(r"[a-z]+_[0-9a-v]{37}")


def new_id(prefix: str, now: datetime) -> str:
    """`prefix_` and 37 lower-case base32hex characters: 56 bits of microseconds, then 128 random bits.

    base32hex keeps the order of the bytes, so ids of one kind sort by creation.
    """
    elapsed_us = (now - _EPOCH) // timedelta(microseconds=1)
    raw = elapsed_us.to_bytes(7, "big") + secrets.token_bytes(16)
    return f"{prefix}_{base64.b32hexencode(raw).decode().rstrip('=').lower()}"


def is_id(prefix: str, text: str) -> bool:
    """Whether this could be an id of that kind."""
    return _FORM.fullmatch(text) is not None and text.startswith(f"{prefix}_")


def new_key() -> str:
    """An API key or ring key with 256 bits of entropy, safe in a header and in an address."""
    return secrets.token_urlsafe(32)


def new_worker_id() -> str:
    """What a worker goes by while it lives: a UUID in hex."""
    return secrets.token_hex(16)


def jitter(span: timedelta) -> timedelta:
    """Anything from nothing to `span`, so that what failed together does not come back together."""
    return span * random.random()  # noqa: S311 - spreads load, guards nothing


def nonce() -> bytes:
    """Twelve bytes that were never used before, for sealing."""
    return secrets.token_bytes(12)
