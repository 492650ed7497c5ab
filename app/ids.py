"""Ids that sort by creation time, keys, nonces and jitter. The only module that uses a random source."""

import random  # noqa: TID251 - the only module that may use it
import re
import secrets  # noqa: TID251 - the only module that may use it
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_LAST = _EPOCH + (2**56 - 1) * _MICROSECOND
_DIGITS = "0123456789abcdefghijklmnopqrstuv"  # base32hex of RFC 4648, in lower case
_PAIRS = [first + second for first in _DIGITS for second in _DIGITS]
_PLACES = range(50, -1, -10)
_RANDOM_DIGITS = 25
_TO_DIGITS = (_DIGITS * 8).encode()
_REST = "_[0-9a-v]{37}"
_API_KEY = "fh_"
PREFIX_LENGTH = 12  # of an API key, shown so that it can be recognised; 9 of its 43 random characters
_FORM = re.compile(f"[a-z]+{_REST}")


def new_id(prefix: str, now: datetime) -> str:
    """Return `prefix_` and 37 lower-case base32hex characters: 56 bits of microseconds, then 129 random bits.

    base32hex preserves the order of the encoded bytes, so ids with one prefix sort by creation time.
    """
    random_bytes = secrets.token_bytes(1 + _RANDOM_DIGITS)
    rest = random_bytes[1:].translate(_TO_DIGITS).decode()
    return f"{prefix}_{_time(now, random_bytes[0] & 15)}{rest}"


def first_at(prefix: str, instant: datetime) -> str:
    """Return the lowest id with this prefix that can be created at `instant`: exactly the older ids sort before it.

    An instant outside the range of ids is clamped to it: from 1970 to the year 4253.
    """
    clamped = min(max(instant, _EPOCH), _LAST)
    return f"{prefix}_{_time(clamped, 0)}{_DIGITS[0] * _RANDOM_DIGITS}"


def _time(at: datetime, low_bits: int) -> str:
    """Return twelve characters: 56 bits of time followed by the four bits of `low_bits`.

    The standard library's encoder takes ten times as long, and each callback needs an id.
    """
    number = (at - _EPOCH) // _MICROSECOND << 4 | low_bits
    return "".join([_PAIRS[number >> place & 1023] for place in _PLACES])


def is_id(prefix: str, text: str) -> bool:
    """Return whether `text` has the form of an id with this prefix."""
    return _FORM.fullmatch(text) is not None and text.startswith(f"{prefix}_")


def pattern(prefix: str) -> str:
    """Return a regular expression for ids with this prefix, anchored at both ends, for JSON Schema."""
    return f"^{prefix}{_REST}$"


def new_api_key() -> str:
    """Return a new API key: `fh_` and 256 random bits in base64url."""
    return f"{_API_KEY}{new_key()}"


def new_key() -> str:
    """Return a new keyring key or admin key: 256 random bits in base64url, safe in headers and URLs."""
    return secrets.token_urlsafe(32)


def new_worker_id() -> str:
    """Return the name of a worker process: 128 random bits in hex, the form of a UUID."""
    return secrets.token_hex(16)


def jitter(span: timedelta) -> timedelta:
    """Return a random duration between zero and `span`, so that work that failed together is not retried together."""
    return span * random.random()  # noqa: S311 - spreads load and protects nothing


def jittered(wait: timedelta) -> timedelta:
    """Return the wait before a retry with jitter: lengthened by up to a quarter."""
    return wait + jitter(wait / 4)


def nonce() -> bytes:
    """Return twelve random bytes: the nonce for sealing one value with AES-GCM."""
    return secrets.token_bytes(12)
