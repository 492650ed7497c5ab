"""Unknown fields of a provider-compatible submit: they are passed on, or refused if the wrong image would be bought.

Nothing is dropped in silence: a field that has no effect, or may have none, gets a warning.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from app.errors import InvalidRequest
from app.params import COMPATIBLE_FIELDS, PASS_UNKNOWN_FIELDS, is_storable
from app.web.foreign_fields import is_empty, reason_to_refuse

_MAX_NAME = 100  # characters
_MAX_FIELDS = 32
_MAX_BYTES = 8 * 1024  # of all fields that are passed on, as JSON
_NATIVE_ONLY = "only POST /v1/tasks takes it"
_OPTIONS = frozenset({"priority", "deadline_at"})
_WEBHOOK_OPTIONS = frozenset({"webhook_form", "webhook_events"})


@dataclass(frozen=True, slots=True)
class Unknown:
    """What becomes of unknown fields: those that are passed on to the provider, and the warnings."""

    passed_on: Mapping[str, JsonValue]
    warnings: tuple[str, ...]


def sort_out(fields: Mapping[str, JsonValue], model: str) -> Unknown:
    """Return what becomes of the unknown fields of a request; empty ones are dropped. Raises InvalidRequest."""
    passed_on: dict[str, JsonValue] = {}
    warnings, size = [], 0
    for name, value in fields.items():
        if name in COMPATIBLE_FIELDS or is_empty(value) or (name == "model" and value == model):
            continue
        if name == "model":
            warnings.append(f"model: has no effect, the path of the request selects {model}")
        elif name in _OPTIONS:
            warnings.append(f"{name}: has no effect, {_NATIVE_ONLY}")
        else:
            size += _size(name, value, model)
            if len(passed_on) == _MAX_FIELDS or size > _MAX_BYTES:
                limit = f"{_MAX_FIELDS} unknown fields of together {_MAX_BYTES // 1024} KB"
                raise _refused(name, f"unknown field: at most {limit} are passed on")
            passed_on[name] = value
            warnings.append(f"{name}: unknown to {model}; passed on to the provider, which may ignore it")
    return Unknown(passed_on, tuple(warnings))


def check_query(parameters: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Return warnings about query parameters, which are not read. Raises InvalidRequest for one that means a field."""
    warnings: dict[str, str] = {}
    for name, value in parameters:
        if name in COMPATIBLE_FIELDS:
            raise _refused(name, "must be in the body, not in the query")
        reason = reason_to_refuse(name, value)
        if reason is not None:
            raise _refused(name, reason)
        if len(warnings) < _MAX_FIELDS:
            warnings[name] = f"{_shown(name)}: query parameters are not read"
    return tuple(warnings.values())


def _size(name: str, value: JsonValue, model: str) -> int:
    """Return the size of a field that may be passed on. Raises InvalidRequest for any other."""
    reason = _NATIVE_ONLY if name in _WEBHOOK_OPTIONS else reason_to_refuse(name, value)
    if reason is None and (model not in PASS_UNKNOWN_FIELDS or len(name) > _MAX_NAME or not is_storable(name)):
        reason = "unknown field"
    if reason is not None:
        raise _refused(name, reason)
    try:
        return len(json.dumps({name: value}, allow_nan=False))
    except (ValueError, RecursionError) as error:
        raise _refused(name, "unknown field: must be JSON of finite numbers and few levels") from error


def _refused(name: str, reason: str) -> InvalidRequest:
    return InvalidRequest(f"{_shown(name)}: {reason}", {_shown(name): reason})


def _shown(name: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in name[:_MAX_NAME])
