"""How long to wait before trying again: exponential backoff, bounded. Pure: who waits adds the jitter."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits of `first`, doubled each time, never longer than `longest`."""

    first: timedelta
    longest: timedelta

    def wait(self, attempt: int) -> timedelta:
        """The wait after the `attempt`-th failure (counted from 1), without jitter."""
        # 2**30 seconds is past any bound, and an exponent without end would overflow.
        return min(self.first * (1 << min(attempt - 1, 30)), self.longest)


SUBMIT = Backoff(first=timedelta(seconds=1), longest=timedelta(minutes=1))
BUSY = Backoff(first=timedelta(seconds=1), longest=timedelta(seconds=30))
UNPAID = Backoff(first=timedelta(seconds=30), longest=timedelta(minutes=10))
COLLECT = Backoff(first=timedelta(seconds=1), longest=timedelta(seconds=20))
LISTENING = Backoff(first=timedelta(seconds=0.5), longest=timedelta(seconds=15))
STORE = Backoff(first=timedelta(seconds=15), longest=timedelta(minutes=2))
STEP_FAILED = Backoff(first=timedelta(seconds=2), longest=timedelta(minutes=5))

# Of a webhook, after its first try: three days in all, as those wait who have to mend what is broken on a weekend.
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
# How long an endpoint that fails is left alone by its other deliveries, too: none of their tries is used up.
ENDPOINT_REST = Backoff(first=timedelta(seconds=1), longest=timedelta(minutes=5))
LONGEST_WISH = timedelta(hours=24)  # of a `Retry-After`
_DIGITS = 9


def webhook_wait(tries: int, wish: timedelta | None) -> timedelta | None:
    """The wait after the `tries`-th failure of a webhook, without jitter; None when that was the last.

    `wish` is what the receiver asked for: it may make the wait longer, up to a day, never shorter.
    """
    if tries > len(WEBHOOK_WAITS):
        return None
    return max(WEBHOOK_WAITS[tries - 1], min(wish or timedelta(), LONGEST_WISH))


def read_retry_after(text: str, now: datetime) -> timedelta | None:
    """`Retry-After` in seconds or as a date (RFC 9110); None for anything else."""
    if text.isascii() and text.isdecimal():
        return timedelta(seconds=int(text[:_DIGITS]))
    try:
        at = parsedate_to_datetime(text)
        return max(timedelta(), (at if at.tzinfo else at.replace(tzinfo=UTC)) - now)
    except (ValueError, TypeError, OverflowError):
        return None
