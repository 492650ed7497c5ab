"""From the members of a request body to the parameters of a task, for JSON and forms of both APIs."""

import json
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from enum import Enum
from functools import cache
from typing import IO, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from app.catalog import Catalog, ImageRules, Model
from app.errors import InvalidRequest
from app.params import TaskOptions, TaskParams
from app.rules.json_value import JsonObject, JsonValue
from app.web import unknown_fields
from app.web.problems import invalid

T = TypeVar("T")
Files = dict[str, IO[bytes]]

_MAX_FIELDS = 20  # invalid fields in one answer
_LENIENT: Mapping[str, TypeAdapter[Any]] = {
    "integer": TypeAdapter(int),
    "number": TypeAdapter(float),
    "boolean": TypeAdapter(bool),
}


class Leniency(Enum):
    """Which values of another type than their member's are converted. True and false never stand for numbers."""

    STRICT = "none"
    TEXTS = "texts"  # as in a form, where each value is one
    PROVIDER = "as the provider"  # texts, and a whole number such as 5.0 for an integer


def to_params(
    catalog: Catalog,
    model: Model,
    members: Mapping[str, JsonValue],
    files: Files,
    read_options: Callable[[JsonObject], TaskOptions],
    options: Iterable[str],
    *,
    leniency: Leniency = Leniency.STRICT,
) -> tuple[TaskParams, Files]:
    """Return the parameters of a task for this model, and its files by slot.

    `members`: without `model`. `files`: the images that are not in the members, by member, or by `member[0]` and so on
    for a list. `read_options`: reads those members that are named in `options`.

    Raises InvalidRequest, which names all wrong members.
    """
    names, found = tuple(options), _Found()
    given_options, rest = TaskOptions(), dict(members)
    with found.errors():
        given_options = read_options({name: rest.pop(name) for name in names if name in rest})
    if given_options.user is not None and "user" in model.properties:
        rest["user"] = given_options.user  # an option of Fluxhook and a member of the model
    texts, kept = dict[str, str](), dict[str, IO[bytes]]()
    with found.errors():
        texts, kept = _take_images(model.images, rest, files)
    unknown = unknown_fields.Unknown({}, ())
    with found.errors():
        unknown = unknown_fields.sort_out(rest, model, options=names)
    known = {name: value for name, value in rest.items() if name in model.properties}
    known = {name: _converted(model.properties[name], value, leniency) for name, value in known.items()}
    parameters: JsonObject = {}
    warnings: tuple[str, ...] = ()
    with found.errors():
        checked = catalog.check(model, {**unknown.passed_on, **known}, [*texts, *kept])
        parameters, warnings = checked.parameters, checked.warnings
    found.check()
    params = TaskParams(model, parameters, texts, given_options, (*unknown.warnings, *warnings))
    return params, kept


class _Found:
    """The invalid fields that were found, for one error about all of them."""

    def __init__(self) -> None:
        self._fields: dict[str, str] = {}
        self._types: dict[str, str] = {}

    @contextmanager
    def errors(self) -> Generator[None]:
        try:
            yield
        except InvalidRequest as error:
            self._fields = {**error.fields, **self._fields}
            self._types = {**error.types, **self._types}

    def check(self) -> None:
        """Raise InvalidRequest if a field is invalid."""
        if not self._fields:
            return
        fields = dict(list(self._fields.items())[:_MAX_FIELDS])
        error = InvalidRequest("; ".join(f"{name}: {reason}" for name, reason in fields.items()), fields)
        error.types = {name: self._types[name] for name in fields if name in self._types}
        raise error


def options_from_json(values: JsonObject) -> TaskOptions:
    """Read options by the types of JSON. Raises InvalidRequest."""
    return _validated(lambda: TaskOptions.model_validate_json(json.dumps(dict(values)), strict=True))


def options_from_lenient_json(values: JsonObject) -> TaskOptions:
    """Read options by the types of JSON, or from texts as in a form. Raises InvalidRequest."""
    schemas = _option_schemas()
    return options_from_json({name: _converted(schemas[name], value, Leniency.TEXTS) for name, value in values.items()})


@cache
def _option_schemas() -> Mapping[str, JsonObject]:
    schemas: Mapping[str, JsonObject] = TaskOptions.model_json_schema()["properties"]
    return schemas


def options_from_python(values: JsonObject) -> TaskOptions:
    """Read options with the usual conversions of pydantic. Raises InvalidRequest."""
    return _validated(lambda: TaskOptions.model_validate(values))


def options_from_texts(values: JsonObject) -> TaskOptions:
    """Read options of a form. Raises InvalidRequest."""
    return _validated(lambda: TaskOptions.model_validate_strings(dict(values)))


def _validated(read: Callable[[], TaskOptions]) -> TaskOptions:
    try:
        return read()
    except ValidationError as error:
        raise invalid(error.errors(include_input=False, include_url=False)) from None


def _take_images(rules: ImageRules, members: dict[str, JsonValue], files: Files) -> tuple[dict[str, str], Files]:
    """Take the images out of the members. Return them by slot: those that are texts, and those that are files."""
    if rules.style != "list":
        return _take_single(rules, members, files)
    texts, kept = dict[str, str](), dict[str, IO[bytes]]()
    for member in rules.members:
        value = members.pop(member, None)
        if member in files:
            kept[f"{member}[0]"] = files[member]
        for index, item in enumerate(_items(member, value)):
            slot = f"{member}[{index}]"
            if slot in files:
                continue
            if not isinstance(item, str) or not item:
                raise _refused(slot, "must be text" if not isinstance(item, str) else "must not be empty")
            texts[slot] = item
    return texts, {**{slot: file for slot, file in files.items() if slot not in rules.members}, **kept}


def _items(member: str, value: JsonValue) -> list[JsonValue]:
    if value is None:
        return []
    if isinstance(value, list):
        if not value:
            raise _refused(member, "must not be empty")
        return value
    return [value]


def _take_single(rules: ImageRules, members: dict[str, JsonValue], files: Files) -> tuple[dict[str, str], Files]:
    texts: dict[str, str] = {}
    for member in rules.members:
        value = members.pop(member, None)
        if isinstance(value, list) or f"{member}[0]" in files:
            raise _refused(member, "must be one image, not a list")
        if value is None:
            continue
        if not isinstance(value, str) or not value:
            raise _refused(member, "must be text" if not isinstance(value, str) else "must not be empty")
        texts[member] = value
    return texts, files


def _converted(schema: JsonObject, value: JsonValue, leniency: Leniency) -> JsonValue:
    """Convert a value to the type of its member, as far as pydantic does; anything else is left to the schema."""
    if leniency is Leniency.STRICT or not (isinstance(value, str) or leniency is Leniency.PROVIDER):
        return value
    types = schema.get("type")
    for name in types if isinstance(types, list) else [types]:
        if name == "string" and isinstance(value, str):
            return value
        adapter = _LENIENT.get(str(name))
        if adapter is None or (isinstance(value, bool) and name != "boolean"):
            continue
        try:
            converted: JsonValue = adapter.validate_python(value)
        except ValidationError:
            continue
        return converted
    return value


def _refused(name: str, reason: str) -> InvalidRequest:
    return InvalidRequest(f"{name}: {reason}", {name: reason})
