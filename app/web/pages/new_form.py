"""The fields of a form for one model, from the JSON Schema of its requests. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from app.catalog import Model
from app.rules.json_value import JsonObject, JsonValue

Kind = Literal["area", "choice", "number", "text", "image"]
_LARGEST = 2**53  # a browser's numbers are exact up to here; larger bounds are left to the check


@dataclass(frozen=True, slots=True)
class Field:
    """An input of the form. `choices`: of a choice; the first is empty unless the field is required."""

    name: str
    label: str
    kind: Kind
    hint: str
    is_required: bool
    value: str
    choices: tuple[str, ...] = ()
    least: str = ""
    most: str = ""
    step: str = "1"
    max_length: str = ""
    is_list: bool = False
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Form:
    """The inputs for images and the others, each in the order of the model's schema."""

    images: list[Field]
    first: list[Field]  # the prompt, and what is required
    more: list[Field]


def form_of(model: Model, values: Mapping[str, JsonValue], problems: Mapping[str, str]) -> Form:
    """Return the fields of a model, with these values and what is wrong with them."""
    fields = [
        _field(name, schema, model, str(values.get(name) or ""), _problem(name, problems))
        for name, schema in model.properties.items()
    ]
    known = [field for field in fields if field is not None]
    others = [field for field in known if field.kind != "image"]
    first = [field for field in others if field.name == "prompt" or field.is_required]
    more = [field for field in others if field not in first]
    return Form([field for field in known if field.kind == "image"], first, more)


def _problem(name: str, problems: Mapping[str, str]) -> str:
    """Return what is wrong with a field or with an image of its list."""
    return next((reason for field, reason in problems.items() if field.partition("[")[0] == name), "")


def _field(name: str, schema: JsonObject, model: Model, value: str, problem: str) -> Field | None:
    """Return the input for a member; None for one that a form cannot hold, such as an object."""
    types = _types(schema)
    label = name.replace("_", " ").capitalize()
    hint, required = str(schema.get("description") or "").replace("`", ""), name in model.required
    if name in model.images.members:
        is_list = model.images.style == "list"
        hint = f"Up to {model.images.max} images: JPEG, PNG or WebP." if is_list else "JPEG, PNG or WebP."
        return Field(name, label, "image", hint, required, "", is_list=is_list, problem=problem)
    if "enum" in schema or "boolean" in types:
        choices = _choices(schema, types)
        return Field(name, label, "choice", _with_default(hint, schema), required, value, choices, problem=problem)
    if types & {"integer", "number"}:
        return Field(
            name,
            label,
            "number",
            _with_default(hint, schema),
            required,
            value,
            least=_bound(schema.get("minimum")),
            most=_bound(schema.get("maximum")),
            step="1" if "integer" in types else "any",
            problem=problem,
        )
    if "string" not in types:
        return None
    kind: Kind = "area" if name == "prompt" else "text"
    longest = str(schema.get("maxLength") or "")
    return Field(name, label, kind, _with_default(hint, schema), required, value, max_length=longest, problem=problem)


def _types(schema: JsonObject) -> set[str]:
    types = schema.get("type", [])
    return {types} if isinstance(types, str) else {str(name) for name in types} if isinstance(types, list) else set()


def _choices(schema: JsonObject, types: Iterable[str]) -> tuple[str, ...]:
    values = schema.get("enum")
    if isinstance(values, list):
        return tuple(str(value) for value in values if value is not None)
    return ("true", "false") if "boolean" in types else ()


def _with_default(hint: str, schema: JsonObject) -> str:
    default = schema.get("default")
    if default is None:
        return hint
    shown = {True: "true", False: "false"}.get(default, str(default)) if isinstance(default, bool) else str(default)
    return f"{hint} Default: {shown}.".strip()


def _bound(value: JsonValue) -> str:
    return str(value) if isinstance(value, int | float) and abs(value) < _LARGEST else ""
