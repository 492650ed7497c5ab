"""Checks JSON values against JSON Schema 2020-12, with reasons that quote the schema and never the value."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jsonschema_rs

from app.rules.json_value import JsonObject, JsonValue

_OTHER_ERROR = "value_error"
_RATIO = re.compile(r"([1-9][0-9]{0,3}):([1-9][0-9]{0,3})")


class Fault(NamedTuple):
    """What is wrong with a member: a reason that never quotes the value, and the type of the error as in pydantic."""

    reason: str
    type: str = _OTHER_ERROR


UNKNOWN = Fault("is not a known member", "extra_forbidden")


class Schema:
    """A compiled schema. Raises ValueError if it is not a valid one."""

    def __init__(self, schema: JsonObject) -> None:
        self._schema = schema
        try:
            self._validator = jsonschema_rs.Draft202012Validator(
                dict(schema), formats={"aspect-ratio": _is_ratio}, validate_formats=True
            )
        except jsonschema_rs.ValidationError as error:
            raise ValueError(f"{_path(list(error.instance_path))}: {error.message}") from error

    def faults(self, value: JsonValue | Mapping[str, JsonValue]) -> dict[str, Fault]:
        """Return why the value does not match: the first fault of each member, by its path such as `images[2]`."""
        faults: dict[str, Fault] = {}
        for error in self._validator.iter_errors(value):
            for path, fault in self._explained(error):
                faults.setdefault(path, fault)
        return faults

    def _explained(self, error: jsonschema_rs.ValidationError) -> list[tuple[str, Fault]]:
        steps = list(error.instance_path)
        keyword = str(error.schema_path[-1]) if error.schema_path else ""
        schema = self._at(error.schema_path)
        kind: Any = error.kind
        if keyword == "required":
            return [(_path([*steps, str(kind.property)]), Fault("is required", "missing"))]
        if keyword in {"additionalProperties", "unevaluatedProperties"}:
            return [(_path([*steps, name]), UNKNOWN) for name in kind.unexpected]
        return [(_path(steps), Fault(_reason(keyword, schema), _error_type(keyword, schema)))]

    def _at(self, path: list[str | int]) -> Any:
        """Return the value of the keyword that failed, which lies at this path of the schema."""
        at: Any = self._schema
        for step in path:
            at = at[step]
        return at


def _reason(keyword: str, wanted: Any) -> str:
    explain = _REASONS.get(keyword)
    return explain(wanted) if explain is not None else f"does not match `{keyword}` of the model's schema"


def _error_type(keyword: str, wanted: Any) -> str:
    if keyword != "type":
        return _ERROR_TYPES.get(keyword, _OTHER_ERROR)
    names = [wanted] if isinstance(wanted, str) else wanted
    return next((_ERROR_TYPES[name] for name in names if name in _ERROR_TYPES), _OTHER_ERROR)


def _types(wanted: Any) -> str:
    names = [_TYPES.get(name, str(name)) for name in ([wanted] if isinstance(wanted, str) else wanted)]
    return f"must be {_listed([name for name in names if name != 'null'])}"


def _values(wanted: list[Any]) -> str:
    values = [str(value) for value in wanted if value is not None]
    return f"must be {_listed(values)}" if len(values) < _MANY else f"must be one of {', '.join(values)}"


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _bound(text: str, wanted: Any) -> str:
    return text.format(wanted)


_MANY = 6
_TYPES = {
    "string": "text",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
}
# As pydantic names them, by the keyword of the schema or the wanted type.
_ERROR_TYPES = {
    "string": "string_type",
    "integer": "int_parsing",
    "number": "float_parsing",
    "boolean": "bool_parsing",
    "array": "list_type",
    "enum": "literal_error",
    "const": "literal_error",
    "minimum": "greater_than_equal",
    "maximum": "less_than_equal",
    "exclusiveMinimum": "greater_than",
    "exclusiveMaximum": "less_than",
    "multipleOf": "multiple_of",
    "minLength": "string_too_short",
    "maxLength": "string_too_long",
    "pattern": "string_pattern_mismatch",
    "minItems": "too_short",
    "maxItems": "too_long",
}
_REASONS: Mapping[str, Callable[[Any], str]] = {
    "type": _types,
    "enum": _values,
    "const": lambda wanted: f"must be {wanted}",
    "minimum": partial(_bound, "must be at least {}"),
    "maximum": partial(_bound, "must be at most {}"),
    "exclusiveMinimum": partial(_bound, "must be more than {}"),
    "exclusiveMaximum": partial(_bound, "must be less than {}"),
    "multipleOf": partial(_bound, "must be a multiple of {}"),
    "minLength": lambda wanted: "must not be empty" if wanted == 1 else f"must have at least {wanted} characters",
    "maxLength": partial(_bound, "must have at most {} characters"),
    "minItems": lambda wanted: "must not be empty" if wanted == 1 else f"must have at least {wanted} items",
    "maxItems": partial(_bound, "must have at most {} items"),
    "pattern": lambda wanted: "must not be blank" if wanted == r"\S" else f"must match the pattern {wanted}",
    "format": lambda wanted: (
        "must be W:H with integers, between 21:9 and 9:21" if wanted == "aspect-ratio" else f"must be a valid {wanted}"
    ),
    "uniqueItems": lambda _: "must not hold the same value twice",
}


def _path(steps: list[str | int]) -> str:
    text = ""
    for step in steps:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def _is_ratio(text: str) -> bool:
    match = _RATIO.fullmatch(text)
    if match is None:
        return False
    width, height = int(match[1]), int(match[2])
    return width * 9 <= height * 21 and height * 9 <= width * 21
