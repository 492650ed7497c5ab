"""Describes JSON by the names and kinds of its members, without their values. Pure."""

import json
import re
from typing import Any, TypeAlias
from urllib.parse import urlsplit

Shape: TypeAlias = "str | dict[str, Shape] | list[Shape]"

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_INSTANT = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:?\d\d)?")
_NAME = re.compile(r"[A-Za-z0-9 _.\-]{1,64}")
_WORD = re.compile(r"[A-Za-z][A-Za-z _\-]{0,39}")
_MAX_MEMBERS, _MAX_DEPTH = 40, 6


def of(value: Any, depth: int = 0) -> Shape:
    """Return the kinds of a JSON value and of its members, such as `{"id": "UUID", "cost": "number"}`."""
    if depth > _MAX_DEPTH:
        return "..."
    if isinstance(value, dict):
        names = list(value)[:_MAX_MEMBERS]
        return {(name if _NAME.fullmatch(name) else "(a name)"): of(value[name], depth + 1) for name in names}
    if isinstance(value, list):
        return [of(value[0], depth + 1), f"{len(value)} of them"] if value else []
    return _kind(value)


def of_body(body: bytes) -> Shape:
    """Return the shape of a body; for one that is not JSON, a word about it."""
    try:
        return of(json.loads(body))
    except (ValueError, RecursionError):
        return "HTML" if b"<html" in body[:512].lower() else f"{len(body)} bytes that are not JSON"


def word(body: bytes, name: str = "status") -> str | None:
    """Return a member that is a word, such as the status of a task; None for anything else."""
    try:
        value = json.loads(body)[name]
    except (ValueError, RecursionError, KeyError, TypeError):
        return None
    return value if isinstance(value, str) and _WORD.fullmatch(value) else None


def number(body: bytes, name: str) -> float | None:
    """Return a member that is a number; None for anything else."""
    try:
        value = json.loads(body)[name]
    except (ValueError, RecursionError, KeyError, TypeError):
        return None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _kind(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else "true or false"
    if isinstance(value, int | float):
        return "whole number" if isinstance(value, int) else "number"
    text = str(value)
    if _UUID.fullmatch(text):
        return "UUID"
    if _INSTANT.fullmatch(text):
        return "instant"
    if text.startswith(("http://", "https://")):
        return f"URL on {host_of(text)}"
    if text[:1] in {"{", "["}:
        return "JSON in a text"
    return "text" if text else "empty text"


def host_of(url: str) -> str:
    """Return the host of a URL; of its path and query, which may hold a token, nothing."""
    try:
        return urlsplit(url).hostname or "no host"
    except ValueError:
        return "no valid host"
