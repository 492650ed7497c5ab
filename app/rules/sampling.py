"""Which forged callbacks are worth writing down: enough to see what is wrong, never what a flood brings.

What is remembered is bounded and of this process alone. Whoever forgets keeps a few more; nothing depends on it.
"""

from collections import OrderedDict
from datetime import datetime, timedelta

_OF_EACH = 10  # attempt
_ATTEMPTS = 4096  # that are remembered
_AT_ONCE = 100
_PER_SECOND = 10


class SampleLimit:
    """A few of each attempt, and a few a second of all together."""

    def __init__(self) -> None:
        self._taken: OrderedDict[str, int] = OrderedDict()
        self._left = float(_AT_ONCE)
        self._since: datetime | None = None

    def take(self, submission_id: str, now: datetime) -> bool:
        """Whether one of this attempt is to be kept; if so it counts."""
        taken = self._taken.get(submission_id, 0)
        self._refill(now)
        if taken >= _OF_EACH or self._left < 1:
            return False
        self._left -= 1
        self._taken[submission_id] = taken + 1
        self._taken.move_to_end(submission_id)
        if len(self._taken) > _ATTEMPTS:
            self._taken.popitem(last=False)
        return True

    def _refill(self, now: datetime) -> None:
        gone = (now - (self._since or now)) / timedelta(seconds=1)
        self._left = min(_AT_ONCE, self._left + max(0.0, gone) * _PER_SECOND)
        self._since = now
