"""The only module that reads the clock. Instants are aware datetimes in UTC; durations are `timedelta`."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

Now: TypeAlias = Callable[[], datetime]


def utc_now() -> datetime:
    return datetime.now(UTC)  # noqa: TID251 - the only module that may use it


class FollowingClock:
    """A clock that follows another one, such as the database's, which several machines share.

    Until it is set it shows the time of this machine. Between two settings it advances with the monotonic clock, so a
    change of this machine's clock does not affect it.
    """

    def __init__(self, machine: Now = utc_now, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.ahead = timedelta()  # how far the machine's clock is ahead of the other one; negative if it is behind
        self._machine = machine
        self._monotonic = monotonic
        self._set_to: datetime | None = None
        self._set_at = 0.0

    def __call__(self) -> datetime:
        if self._set_to is None:
            return self._machine()
        return self._set_to + timedelta(seconds=self._monotonic() - self._set_at)

    @property
    def is_set(self) -> bool:
        return self._set_to is not None

    def set(self, earliest: datetime, latest: datetime) -> None:
        """Set it to a time within these bounds: the closest to what it shows, so that it jumps only if it is wrong."""
        shown, machine = self(), self._machine()
        self._set_to, self._set_at = min(max(shown, earliest), latest), self._monotonic()
        self.ahead = machine - min(max(machine, earliest), latest)
