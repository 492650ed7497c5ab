"""How long a store that has just worked is believed to work, so that a probe each second does not wear it."""

import time

BELIEVED_S = 5.0


class RecentSuccess:
    """Gained by what went well, gone after a while, and with anything that went wrong."""

    def __init__(self, lasts_s: float) -> None:
        self._lasts_s = lasts_s
        self._until = 0.0

    def __bool__(self) -> bool:
        return time.monotonic() < self._until

    def gain(self) -> None:
        self._until = time.monotonic() + self._lasts_s

    def lose(self) -> None:
        self._until = 0.0
