"""The only source of randomness: ids that sort by creation, keys, and jitter."""

import random  # noqa: TID251 - the one place that may
import re
import secrets  # noqa: TID251 - the one place that may
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_LAST = _EPOCH + (2**56 - 1) * _MICROSECOND
_DIGITS = "0123456789abcdefghijklmnopqrstuv"  # base32hex of RFC 4648, in lower case
_PAIRS = [first + second for first in _DIGITS for second in _DIGITS]
_PLACES = range(50, -1, -10)
_RANDOM_DIGITS = 25
_TO_DIGITS = (_DIGITS * 8).encode()
_FORM = re.compile(r"[a-z]+_[0-9a-v]{37}")


def new_id(prefix: str, now: datetime) -> str:
    """`prefix_` and 37 lower-case base32hex characters: 56 bits of microseconds, then 129 random bits.

    base32hex keeps the order of the bytes, so ids of one kind sort by creation.
    """
    random_bytes = secrets.token_bytes(1 + _RANDOM_DIGITS)
    rest = random_bytes[1:].translate(_TO_DIGITS).decode()
    return f"{prefix}_{_time(now, random_bytes[0] & 15)}{rest}"


def first_at(prefix: str, instant: datetime) -> str:
    """The lowest id of this kind that can be made at `instant`: what is older sorts before it, nothing else does.

    An instant that no id can tell counts as the first or the last that one can: 1970, or the year 4253.
    """
    told = min(max(instant, _EPOCH), _LAST)
    return f"{prefix}_{_time(told, 0)}{_DIGITS[0] * _RANDOM_DIGITS}"


def _time(at: datetime, rest: int) -> str:
    """Twelve characters: 56 bits of time, and four that are given.

    Not by the library's encoder, which takes ten times as long for an id: each callback needs one.
    """
    number = (at - _EPOCH) // _MICROSECOND << 4 | rest
    return "".join([_PAIRS[number >> place & 1023] for place in _PLACES])


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
