"""The limits of an application, and the rate at which it may post. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

MAX_PRIORITY = 9
_MINUTE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Limits:
    """What an application may use at once. None: no limit of its own."""

    in_flight: int | None = None  # tasks with a slot
    queued: int | None = 10_000  # queued tasks, those with a slot included
    posts_per_minute: int | None = None  # tasks posted or resubmitted
    uploads: int | None = 16  # bodies above 64 KB that one process receives at once
    streams: int | None = 100  # event streams that one process serves at once
    deliveries: int | None = 16  # webhooks that one process sends at once
    tests_per_minute: int | None = 30  # test deliveries
    priority: int = 0  # the highest that a task may have

    def followed_by(self, own: Mapping[str, int | None]) -> "Limits":
        """Return these limits with those of one application in their place. Unknown names are ignored."""
        changes: dict[str, Any] = {name: value for name, value in own.items() if name in NAMES}
        return replace(self, **changes)


DEFAULTS = Limits()
# The limits of the operator's own application, and of those that were made from the keys of an earlier version.
UNLIMITED = Limits(
    queued=None, uploads=None, streams=None, deliveries=None, tests_per_minute=None, priority=MAX_PRIORITY
)
NAMES = tuple(field.name for field in fields(Limits))


class Rate(StrEnum):
    """The limits that count requests in time; the values are their names."""

    POSTS = "posts_per_minute"
    TESTS = "tests_per_minute"


@dataclass(frozen=True, slots=True)
class Taken:
    """A request is admitted. `busy_until` is what to remember."""

    busy_until: datetime


@dataclass(frozen=True, slots=True)
class Refused:
    """A request is refused. The next one is admitted after `wait`."""

    wait: timedelta


def take(busy_until: datetime | None, now: datetime, per_minute: int, count: int = 1) -> Taken | Refused:
    """Count requests, all or none, against a limit of requests per minute.

    A token bucket, as one instant (GCRA): each request takes the time of its share of a minute, and the requests of a
    whole minute may come at once. `busy_until`: of the last admitted request, None for the first.
    """
    if per_minute < count:
        return Refused(_MINUTE)
    share = _MINUTE // per_minute
    start = max(busy_until or now, now)
    full_at = now + _MINUTE - count * share
    return Taken(start + count * share) if start <= full_at else Refused(start - full_at)
