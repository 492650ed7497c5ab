"""For how long each class of a task's data is kept after the task's end; no I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum


class DataClass(StrEnum):
    """A part of a task's data that has a retention of its own. The names are those of `retention_days`."""

    IMAGES = "images"  # the result and its thumbnail
    INPUTS = "inputs"  # the input images
    EVIDENCE = "evidence"  # evidence, downloads, and deliveries with their attempts
    TASKS = "tasks"  # the whole task with all of these


@dataclass(frozen=True, slots=True)
class Retention:
    """The retention of each class, after the task's end. None: without limit."""

    images: timedelta | None = None
    inputs: timedelta | None = None
    evidence: timedelta | None = None
    tasks: timedelta | None = None

    def of(self, data: DataClass, own: Mapping[str, int | None] | None = None) -> timedelta | None:
        """Return the retention of a class. `own`: the `retention_days` of an application, which replace this one."""
        days = (own or {}).get(data)
        default: timedelta | None = getattr(self, data)
        return default if days is None else period(days)


UNLIMITED = Retention()


def period(days: int) -> timedelta | None:
    """Return a number of days as a retention. 0: without limit."""
    return timedelta(days=days) if days else None
