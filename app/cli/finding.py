"""What `doctor` reports."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. An unhealthy finding makes the exit code 1."""

    name: str
    text: str
    unhealthy: bool = False
    readable: bool = False  # of the database: its schema can be read by this version
