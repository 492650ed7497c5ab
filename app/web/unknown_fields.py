"""Fields that a model does not know: they are passed on, or refused if the wrong image would be bought.

Nothing is dropped in silence: a field that has no effect, or may have none, gets a warning.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from app.catalog import Model
from app.errors import InvalidRequest
from app.params import COMPATIBLE_OPTIONS, OPTIONS
from app.rules.json_value import JsonObject, JsonValue, is_storable
from app.web.foreign_fields import is_empty, reason_to_refuse

_MAX_NAME = 100  # characters
_MAX_FIELDS = 32
_MAX_BYTES = 8 * 1024  # of all fields that are passed on, as JSON
_NATIVE_ONLY = "only POST /v1/tasks takes it"
# Options that the provider's API has too, or may get: where they are not options, they are passed on.
_PROVIDERS_TOO = frozenset({"user", "metadata"})
_WITHOUT_EFFECT = frozenset({"priority", "deadline_at"})  # where they are not options


@dataclass(frozen=True, slots=True)
class Unknown:
    """What becomes of unknown fields: those that the catalog has to judge, and the warnings about the others."""

    passed_on: JsonObject
    warnings: tuple[str, ...]


def sort_out(fields: Mapping[str, JsonValue], model: Model, *, options: Collection[str]) -> Unknown:
    """Return what becomes of the unknown fields of a request; empty ones are dropped. Raises InvalidRequest.

    `fields`: without images. `options`: the names of the options of Fluxhook that this API takes.
    """
    passed_on: dict[str, JsonValue] = {}
    warnings, size = [], 0
    for name, value in fields.items():
        if name in model.properties or name in options or is_empty(value) or (name == "model" and value == model.id):
            continue
        if name == "model":
            warnings.append(f"model: has no effect, the path of the request selects {model.id}")
        elif name in _WITHOUT_EFFECT:
            warnings.append(f"{name}: has no effect, {_NATIVE_ONLY}")
        else:
            size += _size(name, value, model, options)
            if len(passed_on) == _MAX_FIELDS or size > _MAX_BYTES:
                limit = f"{_MAX_FIELDS} unknown fields of together {_MAX_BYTES // 1024} KB"
                raise _refused(name, f"unknown field: at most {limit} are passed on")
            passed_on[name] = value
    return Unknown(passed_on, tuple(warnings))


def check_query(parameters: Iterable[tuple[str, str]], model: Model) -> tuple[str, ...]:
    """Return warnings about query parameters, which are not read. Raises InvalidRequest for one that means a field."""
    warnings: dict[str, str] = {}
    for name, value in parameters:
        if name in model.properties or name in COMPATIBLE_OPTIONS:
            raise _refused(name, "must be in the body, not in the query")
        reason = reason_to_refuse(name, value, model, COMPATIBLE_OPTIONS)
        if reason is not None:
            raise _refused(name, reason)
        if len(warnings) < _MAX_FIELDS:
            warnings[name] = f"{_shown(name)}: query parameters are not read"
    return tuple(warnings.values())


def _size(name: str, value: JsonValue, model: Model, options: Collection[str]) -> int:
    """Return the size of a field that may be passed on. Raises InvalidRequest for any other."""
    is_native = name in OPTIONS and name not in _PROVIDERS_TOO
    reason = _NATIVE_ONLY if is_native else reason_to_refuse(name, value, model, options)
    if reason is None and (len(name) > _MAX_NAME or not is_storable(name)):
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
