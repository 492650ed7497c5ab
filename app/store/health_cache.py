"""Remember that a store has just worked, so that frequent health checks do not write to it each time."""

import time

SUCCESS_LASTS_S = 5.0  # how long a success counts


class RecentSuccess:
    """True for `lasts_s` seconds after a success, unless a failure follows."""

    def __init__(self, lasts_s: float) -> None:
        self._lasts_s = lasts_s
        self._until = 0.0

    def __bool__(self) -> bool:
        return time.monotonic() < self._until

    def record_success(self) -> None:
        self._until = time.monotonic() + self._lasts_s

    def record_failure(self) -> None:
        self._until = 0.0
