"""Load the catalog: the rows that ship with Fluxhook, and those of the operator's file."""

import json
import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from app.catalog.model import ImageRules, Model
from app.catalog.schema import Schema
from app.errors import ConfigurationError
from app.rules.json_value import JsonObject

_HERE = Path(__file__).parent
_MEGABYTE = 1024**2
_DEFAULTS: Mapping[str, Any] = {
    "kind": "image",
    "status": "current",
    "note": "",
    "webhook": True,
    "strict": False,
    "link_life_s": 600,
    "usual_s": 10,
    "longest_s": 600,
    "slots": None,
    "edit_tolerance": None,
    "max_output_pixels": None,
    "without_images": {},
    "send_defaults": [],
    "credits": None,
    "price": None,
    "sure": "medium",
    "sources": [],
}
# Members that most models have: for a model without a row they need no warning.
_USUAL = (
    *("prompt", "seed", "aspect_ratio", "width", "height", "resolution", "output_format"),
    *("prompt_upsampling", "safety_tolerance", "user"),
)
_RESERVED = frozenset({"model", "webhook_url", "webhook_secret"})
# The limits of one input image, as BFL states them for Kontext (20 MB, 20 megapixels, sides of at least 256 pixels).
_IMAGE_DEFAULTS: Mapping[str, Any] = {
    "style": "none",
    "members": [],
    "max_bytes": 20 * _MEGABYTE,
    "max_pixels": 20_000_000,
    "min_side": 256,
}


def shipped() -> list[Model]:
    """Return the rows that ship with Fluxhook."""
    path = _HERE / "models.json"
    return _models(json.loads(path.read_bytes()), path.name)


@cache
def _row_schema() -> Schema:
    return Schema(json.loads((_HERE / "row.schema.json").read_bytes()))


def unlisted(model_id: str) -> Model:
    """Return a row for a model that is in no table: it takes a webhook and any members, and numbered images."""
    images = ("input_image", *(f"input_image_{number}" for number in range(2, 9)))
    row = {
        "id": model_id,
        "longest_s": 900,
        "note": "Not in the catalog.",
        "sure": "low",
        "images": {"style": "numbered", "members": images, "max": len(images)},
        "request": {"properties": {**{name: {"type": "string"} for name in images}, **{name: {} for name in _USUAL}}},
    }
    return _built(row, model_id)


def from_file(path: Path) -> list[Model]:
    """Return the rows of the operator's file: JSON, or TOML if its name ends in `.toml`.

    Raises ConfigurationError, which names the row and the member.
    """
    try:
        content = path.read_bytes()
        document = tomllib.loads(content.decode()) if path.suffix == ".toml" else json.loads(content)
    except OSError as error:
        raise _invalid(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # also UnicodeDecodeError, JSONDecodeError and TOMLDecodeError
        raise _invalid(f"{path} is not valid {'TOML' if path.suffix == '.toml' else 'JSON'}: {error}") from error
    return _models(document, path.name)


def _models(document: Any, name: str) -> list[Model]:
    rows = document.get("models") if isinstance(document, dict) else None
    if not isinstance(rows, list) or set(document) - {"models", "$defs", "sources"}:
        raise _invalid(f"{name}: must hold a list `models`, and may hold `$defs` and `sources`")
    models = [_model(row, number, name, document.get("$defs", {})) for number, row in enumerate(rows)]
    for model_id in _repeated(model.id for model in models):
        raise _invalid(f"{name}: {model_id} is listed twice")
    return models


def _model(row: Any, number: int, name: str, definitions: JsonObject) -> Model:
    where = f"{name}: models[{number}]"
    if isinstance(row, dict) and isinstance(row.get("id"), str):
        where += f" ({row['id']})"
    for path, fault in _row_schema().faults(row).items():
        raise _invalid(f"{where}: {path or 'the row'} {fault.reason}")
    try:
        request = _resolved(row["request"], definitions)
        Schema(request)
    except (KeyError, ValueError) as error:
        raise _invalid(f"{where}: request is not a valid JSON Schema: {error}") from error
    return _built({**row, "request": request}, where)


def _built(row: Mapping[str, Any], where: str) -> Model:
    """Return the model of a row whose parts are valid, with the defaults. Raises ConfigurationError."""
    values = {**_DEFAULTS, **row}
    values.setdefault("path", f"/v1/{row['id']}")
    images = {**_IMAGE_DEFAULTS, **row.get("images", {})}
    images.setdefault("max", len(images["members"]))
    return _checked(
        Model(
            **{
                **values,
                "images": ImageRules(**{**images, "members": tuple(images["members"])}),
                "send_defaults": tuple(values["send_defaults"]),
                "sources": tuple(values["sources"]),
                "request": {"type": "object", **values["request"]},
            }
        ),
        where,
    )


def _checked(model: Model, where: str) -> Model:
    """Check what the parts of a row say about each other. Raises ConfigurationError."""
    for part, members in {"images.members": model.images.members, "request.required": model.required}.items():
        for member in members:
            if member not in model.properties:
                raise _invalid(f"{where}: {part} names {member}, which request.properties does not have")
    for member in model.send_defaults:
        if "default" not in model.properties.get(member, {}):
            raise _invalid(f"{where}: send_defaults names {member}, which has no default in request.properties")
    for member in model.without_images:
        if member not in model.properties:
            raise _invalid(f"{where}: without_images names {member}, which request.properties does not have")
    if "images" in model.properties and "images" not in model.images.members:
        raise _invalid(f"{where}: request.properties has images, which images.members does not name")
    for member in _RESERVED & model.properties.keys():
        raise _invalid(f"{where}: request.properties must not have {member}, which Fluxhook sets itself")
    _check_style(model.images, where)
    return model


def _check_style(images: ImageRules, where: str) -> None:
    if (images.style == "none") != (not images.members):
        raise _invalid(f"{where}: images.members must be empty if images.style is none, and only then")
    if images.style == "list" and len(images.members) != 1:
        raise _invalid(f"{where}: images.members must name one member if images.style is list")


def _resolved(value: Any, definitions: JsonObject) -> Any:
    """Return the schema with each reference to `#/$defs/NAME` replaced. Raises KeyError for an unknown name."""
    if isinstance(value, dict):
        reference = value.get("$ref")
        if isinstance(reference, str):
            found = definitions[reference.removeprefix("#/$defs/")]
            rest = {key: item for key, item in value.items() if key != "$ref"}
            return {**_resolved(found, definitions), **rest}
        return {key: _resolved(item, definitions) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolved(item, definitions) for item in value]
    return value


def _repeated(ids: Iterable[str]) -> list[str]:
    seen: set[str] = set()
    return [model_id for model_id in ids if model_id in seen or seen.add(model_id)]  # type: ignore[func-returns-value]


def _invalid(detail: str) -> ConfigurationError:
    return ConfigurationError(f"FLUXHOOK_MODELS_FILE: {detail}")
