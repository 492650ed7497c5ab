"""How many tasks an account may have in flight: its limit, lowered for a while by a refusal for lack of slots. Pure."""

from dataclasses import dataclass
from datetime import datetime, timedelta

# The time in which a lowered limit rises again, evenly: what the refusal taught may no longer be true.
RECOVERY = timedelta(minutes=2)


@dataclass(frozen=True, slots=True)
class Lowered:
    """A limit that was lowered to `to` at this time."""

    to: int
    at: datetime


def allowed(limit: int, lowered: Lowered | None, now: datetime) -> int:
    """Return how many tasks may be in flight now."""
    if lowered is None or lowered.to >= limit:
        return limit
    passed = max(timedelta(), now - lowered.at)
    risen = lowered.to + (limit - lowered.to) * passed // RECOVERY
    return min(limit, risen)


def next_rise(limit: int, lowered: Lowered | None, now: datetime) -> datetime | None:
    """Return when one more task may be in flight than now; None if the limit is not lowered any more."""
    if lowered is None or (reached := allowed(limit, lowered, now)) >= limit:
        return None
    steps = reached + 1 - lowered.to
    return lowered.at - (-steps * RECOVERY // (limit - lowered.to))  # rounded up


def lower(limit: int, lowered: Lowered | None, in_flight: int, now: datetime) -> Lowered | None:
    """Return the limit after a task was refused while `in_flight` others were at the provider; None if it is the same.

    The provider has proved that it takes no more than these, so no more are sent for a while. If there were none, the
    refusal has another reason, such as a limit of requests.
    """
    return Lowered(in_flight, now) if 0 < in_flight < allowed(limit, lowered, now) else None
