"""JSON values, for columns and messages whose members are not the same everywhere, and which texts can be stored."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

JsonValue: TypeAlias = str | int | float | bool | Sequence["JsonValue"] | Mapping[str, "JsonValue"] | None
JsonObject: TypeAlias = Mapping[str, JsonValue]


def is_storable(text: str) -> bool:
    """Whether the database can store a text: PostgreSQL has no NUL, and UTF-8 cannot encode a lone surrogate."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
