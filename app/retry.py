"""How long to wait before trying again: exponential backoff with jitter, bounded. Pure."""

from dataclasses import dataclass
from datetime import timedelta


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
