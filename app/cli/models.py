"""`fluxhook models`: the models that this installation serves."""

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from app.catalog import Model
from app.cli import completion
from app.cli.options import AsJson
from app.cli.output import print_json
from app.cli.table_printer import Cell, Column, print_table
from app.errors import NotFound
from app.settings import from_environment
from app.wiring import load_catalog

_LIST = ("model", "kind", Column("status", optional=True), "watched by", Column("images", optional=True), "credits")
_PARAMETERS = ("parameter", Column("value", flexible=True, wraps=True), "default")

ModelId = Annotated[
    str | None,
    typer.Argument(metavar="[MODEL]", help="Show the parameters of this model.", autocompletion=completion.models),
]


def models(
    model_id: ModelId = None,
    *,
    as_json: AsJson = False,
) -> None:
    """List the models of the catalog, or the parameters of one."""
    catalog = load_catalog(from_environment())
    if model_id is None:
        _print_list(list(catalog), as_json=as_json)
        return
    model = catalog.get(model_id)
    if model is None:
        raise NotFound(f"there is no model {model_id}: `fluxhook models` lists them")
    _print_one(model, as_json=as_json)


def _print_list(listed: list[Model], *, as_json: bool) -> None:
    if as_json:
        print_json([_summary(model) for model in listed])
        return
    rows: list[tuple[Cell, ...]] = [
        (
            model.id,
            model.kind if model.kind == "image" else "video: not served",
            model.status,
            "callback" if model.webhook else "poll",
            model.images.max,
            model.credits,
        )
        for model in listed
    ]
    print_table(_LIST, rows)


def _summary(model: Model) -> Mapping[str, Any]:
    return {
        "id": model.id,
        "kind": model.kind,
        "status": model.status,
        "webhook": model.webhook,
        "strict": model.strict,
        "max_images": model.images.max,
        "credits": model.credits,
        "price": model.price,
    }


def _print_one(model: Model, *, as_json: bool) -> None:
    if as_json:
        print_json({**_summary(model), "request": model.request})
        return
    typer.echo(f"{model.id} ({model.status}): {model.price or 'price unknown'}")
    if model.note:
        typer.echo(model.note)
    rows = [
        (f"{name}{' (required)' if name in model.required else ''}", kind, default)
        for name, kind, default in parameters(model)
    ]
    print_table(_PARAMETERS, rows)


def parameters(model: Model) -> list[tuple[str, str, str]]:
    """Return name, permitted values and default of each parameter, as text."""
    return [(name, _values(name, schema, model), _default(schema)) for name, schema in model.properties.items()]


def _default(schema: Mapping[str, Any]) -> str:
    return json.dumps(schema["default"]) if "default" in schema else ""


def _values(name: str, schema: Mapping[str, Any], model: Model) -> str:
    if name in model.images.members:
        return f"up to {model.images.max} images" if model.images.style == "list" else "image"
    if "enum" in schema:
        return ", ".join(str(value) for value in schema["enum"] if value is not None)
    types = schema.get("type", "any")
    kind = "W:H" if schema.get("format") == "aspect-ratio" else next(t for t in _listed(types) if t != "null")
    low, high = schema.get("minimum"), schema.get("maximum")
    if name == "seed":
        return kind
    if low is not None and high is not None:
        kind += f", {low} to {high}"
    elif low is not None:
        kind += f", at least {low}"
    return f"{kind}{_step(schema)}"


def _step(schema: Mapping[str, Any]) -> str:
    return f", a multiple of {schema['multipleOf']}" if "multipleOf" in schema else ""


def _listed(types: Any) -> list[str]:
    return [types] if isinstance(types, str) else list(types)
