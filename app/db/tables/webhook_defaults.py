"""Webhook settings of an API key or an application as they are written; a field can also stay as it is."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Final


class Unchanged(Enum):
    """The type of `UNCHANGED`, the value that leaves a column as it is. None clears the column."""

    UNCHANGED = "unchanged"


UNCHANGED: Final = Unchanged.UNCHANGED


@dataclass(frozen=True, slots=True)
class WebhookDefaults:
    """The webhook settings to be written."""

    url: str | Unchanged | None = UNCHANGED
    secret: str | Unchanged | None = field(default=UNCHANGED, repr=False)  # sealed
    form: str | Unchanged | None = UNCHANGED
    events: Sequence[str] | Unchanged | None = UNCHANGED

    def columns(self) -> dict[str, str | Sequence[str] | None]:
        """Return the values to write, by column."""
        values = {f"webhook_{member.name}": getattr(self, member.name) for member in fields(self)}
        return {name: value for name, value in values.items() if value is not UNCHANGED}


NO_CHANGE = WebhookDefaults()


@dataclass(frozen=True, slots=True)
class EffectiveDefaults:
    """The webhook settings for the tasks of an API key: each is the key's own, else that of its application."""

    url: str | None
    form: str | None
    events: Sequence[str] | None
    secret: str | None = field(repr=False)  # sealed
    secret_owner: str  # the id that the secret was sealed for
