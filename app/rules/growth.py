"""When a disk is full at the rate at which data arrives and retention deletes it; no I/O."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Stored:
    """One kind of data on a disk: its size now and what arrives in a day, in bytes, and for how long it is kept."""

    size: int
    per_day: float
    kept: timedelta | None = None  # None: without limit

    @property
    def still_to_come(self) -> float | None:
        """By how many bytes it will grow until retention deletes as much as arrives; None: it never stops."""
        if self.kept is None:
            return None if self.per_day > 0 else 0.0
        return max(0.0, self.per_day * (self.kept / timedelta(days=1)) - self.size)


_MOST_DAYS = 36_500.0


def full_in(free: int, stored: Sequence[Stored]) -> timedelta | None:
    """Return when `free` bytes are used up at the present rates, at most a century; None if they never are."""
    left, days = float(free), 0.0
    growing = sorted((_days_left(kind), kind.per_day) for kind in stored if kind.per_day > 0)
    while growing:
        rate = sum(per_day for _, per_day in growing)
        step = growing[0][0] - days  # until the first of them is as large as retention lets it become
        if left <= rate * step:
            return timedelta(days=min(days + left / rate, _MOST_DAYS))
        left -= rate * step
        days += step
        growing.pop(0)
    return None


def _days_left(kind: Stored) -> float:
    coming = kind.still_to_come
    return math.inf if coming is None else coming / kind.per_day
