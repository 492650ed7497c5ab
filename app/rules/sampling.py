"""Sampling of forged callbacks: enough are stored for a diagnosis, and a flood is not written to the database.

The counts are bounded and held in the memory of this process. If they are lost or evicted, a few more samples are
stored, which is harmless.
"""

from collections import OrderedDict
from datetime import datetime, timedelta

_MAX_PER_ATTEMPT = 10
_MAX_ATTEMPTS = 4096  # attempts whose counts are remembered
_BURST = 100
_PER_SECOND = 10


class SampleLimit:
    """A limit per attempt, and a token bucket for all attempts together."""

    def __init__(self) -> None:
        self._taken: OrderedDict[str, int] = OrderedDict()
        self._tokens = float(_BURST)
        self._refilled_at: datetime | None = None

    def take(self, attempt_id: str, now: datetime) -> bool:
        """Return whether to store one more callback of this attempt; if so, count it."""
        taken = self._taken.get(attempt_id, 0)
        self._refill(now)
        if taken >= _MAX_PER_ATTEMPT or self._tokens < 1:
            return False
        self._tokens -= 1
        self._taken[attempt_id] = taken + 1
        self._taken.move_to_end(attempt_id)
        if len(self._taken) > _MAX_ATTEMPTS:
            self._taken.popitem(last=False)
        return True

    def _refill(self, now: datetime) -> None:
        elapsed_s = (now - (self._refilled_at or now)) / timedelta(seconds=1)
        self._tokens = min(_BURST, self._tokens + max(0.0, elapsed_s) * _PER_SECOND)
        self._refilled_at = now
