"""The request schema of each model, as the provider's OpenAPI document states it. The facts are in `models.json`.

The twin has its own copy of these facts, so that a wrong row in the product's catalog fails against the twin.
"""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, HttpUrl, TypeAdapter, create_model

_RATIO = re.compile(r"(\d{1,4}):(\d{1,4})", re.ASCII)
_URL = TypeAdapter(HttpUrl)
_BOUNDS = {
    "min": "ge",
    "max": "le",
    "multipleOf": "multiple_of",
    "minLength": "min_length",
    "maxLength": "max_length",
    "minItems": "min_length",
    "maxItems": "max_length",
}


class SubmitRequest(BaseModel):
    """The body of a submit request. Each model has a subclass with its members."""

    model_config = ConfigDict(frozen=True)

    def value(self, name: str) -> Any:
        """Return the value of a member, or None if it is absent or the model has no such member."""
        return getattr(self, name, None)

    def input_images(self) -> dict[str, str]:
        """Return the given images, base64 or a URL, by name: `images[0]` for the first one of a list."""
        given: dict[str, str] = {}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if value is not None and (field.json_schema_extra or {}) == {"image": True}:
                values = value if isinstance(value, list) else [value]
                given |= {f"{name}[{n}]" if isinstance(value, list) else name: item for n, item in enumerate(values)}
        return given

    @property
    def text(self) -> str:
        """The prompt, or the empty string without one."""
        return self.value("prompt") or ""

    @property
    def has_webhook(self) -> bool:
        return self.value("webhook_url") is not None


class ModelFacts(BaseModel):
    """A row of `models.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    strict: bool
    link_life_s: float
    credits: float
    members: Mapping[str, Mapping[str, Any]]


@cache
def known_models() -> Mapping[str, ModelFacts]:
    rows = TypeAdapter(list[ModelFacts]).validate_json((Path(__file__).parent / "models.json").read_bytes())
    return {row.model: row for row in rows}


@cache
def schema_of(model: str) -> type[SubmitRequest]:
    """Return the request schema of a model. One that is not in the table takes what Kontext takes."""
    facts = known_models().get(model) or known_models()["flux-kontext-pro"]
    fields: dict[str, Any] = {name: _field(member) for name, member in facts.members.items()}
    config = ConfigDict(frozen=True, extra="forbid" if facts.strict else "ignore")
    base = type("Inputs", (SubmitRequest,), {"model_config": config, "__module__": __name__})
    return cast("type[SubmitRequest]", create_model("Inputs", __base__=base, **fields))


def ratio_of(value: str) -> float:
    """Return width divided by height of "W:H". Raises ValueError if it is not from 21:9 to 9:21."""
    match = _RATIO.fullmatch(value)
    width, height = map(int, match.groups()) if match else (0, 0)
    if not width or not height:
        raise ValueError("aspect_ratio must be W:H")
    if not 9 * height <= 21 * width or not 9 * width <= 21 * height:
        raise ValueError("aspect_ratio must be between 21:9 and 9:21")
    return width / height


def _field(member: Mapping[str, Any]) -> Any:
    kind = str(member["type"]).partition("|")[0]
    bounds = {} if "minItems" in member else {bound: member[name] for name, bound in _BOUNDS.items() if name in member}
    is_required = member.get("required", False)
    value = _type(member, kind) if is_required else _type(member, kind) | None
    extra: dict[str, Any] = {"image": True} if kind == "image" else {}
    return (value, Field(default=... if is_required else None, json_schema_extra=extra or None, **bounds))


def _type(member: Mapping[str, Any], kind: str) -> Any:
    if "enum" in member:
        return Literal[tuple(member["enum"])]
    if "list[image]" in str(member["type"]):
        return str | Annotated[list[str], Field(max_length=member.get("maxItems"))]
    types: Mapping[str, Any] = {
        "string": str,
        "image": str,
        "integer": int,
        "number": float,
        "boolean": bool,
        "ratio": Annotated[str, AfterValidator(_checked_ratio)],
        "uri": Annotated[str, AfterValidator(_checked_url)],
    }
    return types[kind]


def _checked_ratio(value: str) -> str:
    ratio_of(value)
    return value


def _checked_url(value: str) -> str:
    # Checked but not normalised: a callback goes to the URL exactly as it was given.
    _URL.validate_python(value)
    return value
