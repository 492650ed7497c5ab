"""The only module that reads the clock. Instants are aware datetimes in UTC; durations are `timedelta`."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeAlias

Now: TypeAlias = Callable[[], datetime]


def utc_now() -> datetime:
    return datetime.now(UTC)  # noqa: TID251 - the only module that may use it
