"""The only source of randomness: ids that sort by creation, keys, and jitter."""

import base64
import random  # noqa: TID251 - the one place that may
import re
import secrets  # noqa: TID251 - the one place that may
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RANDOM_BYTES = 16
_FORM = re.compile(r"[a-z]+_[0-9a-v]{37}")


def new_id(prefix: str, now: datetime) -> str:
    """`prefix_` and 37 lower-case base32hex characters: 56 bits of microseconds, then 128 random bits.

    base32hex keeps the order of the bytes, so ids of one kind sort by creation.
    """
    return _id(prefix, now, secrets.token_bytes(_RANDOM_BYTES))


def first_at(prefix: str, instant: datetime) -> str:
    """The lowest id of this kind that can be made at `instant`: what is older sorts before it, nothing else does."""
    return _id(prefix, instant, bytes(_RANDOM_BYTES))


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


def _id(prefix: str, instant: datetime, tail: bytes) -> str:
    elapsed_us = (instant - _EPOCH) // timedelta(microseconds=1)
    raw = elapsed_us.to_bytes(7, "big") + tail
    return f"{prefix}_{base64.b32hexencode(raw).decode().rstrip('=').lower()}"
