"""Waits before a retry: bounded exponential backoff, and the schedule of webhooks. Pure: callers add the jitter."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff: a wait of `first`, doubled after each failure, at most `longest`."""

    first: timedelta
    longest: timedelta

    def wait(self, attempt: int) -> timedelta:
        """Return the wait after the `attempt`-th failure, counted from 1, without jitter."""
        # Doubling 30 times exceeds every `longest`; an unbounded exponent would overflow.
        return min(self.first * (1 << min(attempt - 1, 30)), self.longest)


SUBMIT = Backoff(first=timedelta(seconds=1), longest=timedelta(minutes=1))
BUSY = Backoff(first=timedelta(seconds=1), longest=timedelta(seconds=30))
UNPAID = Backoff(first=timedelta(seconds=30), longest=timedelta(minutes=10))
KEY_REFUSED = UNPAID
BLOCKED = Backoff(first=timedelta(seconds=5), longest=timedelta(minutes=5))
COLLECT = Backoff(first=timedelta(seconds=1), longest=timedelta(seconds=20))
LISTENING = Backoff(first=timedelta(seconds=0.5), longest=timedelta(seconds=15))
STORE = Backoff(first=timedelta(seconds=15), longest=timedelta(minutes=2))
STEP_FAILED = Backoff(first=timedelta(seconds=2), longest=timedelta(minutes=5))

# The waits after each failed try of a webhook. They add up to three days, so that a receiver may be down for a weekend.
WEBHOOK_WAITS = (
    timedelta(seconds=5),
    timedelta(seconds=30),
    timedelta(minutes=2),
    timedelta(minutes=10),
    timedelta(minutes=30),
    timedelta(hours=1),
    timedelta(hours=2),
    timedelta(hours=4),
    timedelta(hours=8),
    timedelta(hours=12),
    timedelta(hours=20),
    timedelta(hours=24),
)
WEBHOOK_SCHEDULE = sum(WEBHOOK_WAITS, timedelta())
# The backoff of a failing endpoint. It delays all of the endpoint's deliveries and uses up none of their tries.
ENDPOINT = Backoff(first=timedelta(seconds=1), longest=timedelta(minutes=5))
MAX_RETRY_AFTER = timedelta(hours=24)  # the longest `Retry-After` that is honoured
_DIGITS = 9  # a longer number of seconds is cut: timedelta has an upper limit


def webhook_wait(tries: int, retry_after: timedelta | None) -> timedelta | None:
    """Return the wait after the `tries`-th failure of a webhook, without jitter; None after the last try.

    `retry_after`: the wait that the receiver asked for. It can lengthen the wait, up to a day, and never shortens it.
    """
    if tries > len(WEBHOOK_WAITS):
        return None
    return max(WEBHOOK_WAITS[tries - 1], min(retry_after or timedelta(), MAX_RETRY_AFTER))


def read_retry_after(text: str, now: datetime) -> timedelta | None:
    """Parse `Retry-After`, in seconds or as an HTTP date (RFC 9110); return None for anything else."""
    if text.isascii() and text.isdecimal():
        return timedelta(seconds=int(text[:_DIGITS]))
    at = read_http_date(text)
    return None if at is None else max(timedelta(), at - now)


def read_http_date(text: str) -> datetime | None:
    """Parse an HTTP date (RFC 9110); return None for anything else."""
    try:
        at = parsedate_to_datetime(text)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        return None
