"""The requests for each model in the OpenAPI document, from the catalog."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from app.catalog import DEFAULT_MODEL, Catalog, Model
from app.params import COMPATIBLE_OPTIONS, TaskOptions
from app.web.multipart import LIST_FIELD

MODEL_PATH = "{model}"
_SCHEMAS = "#/components/schemas/"
_OPTIONS: Mapping[str, Any] = TaskOptions.model_json_schema()["properties"]
_PHOTO = "https://example.com/photo.jpg"


def add_models(document: dict[str, Any], catalog: Catalog) -> None:
    """Describe the body of `POST /v1/tasks`, and each path of the provider-compatible API that selects a model."""
    served = [model for model in catalog if model.kind == "image"]
    names = dict(_named(served))
    schemas = document["components"]["schemas"]
    for model in served:
        schemas[f"{names[model.id]}Task"] = _task_schema(model, names[model.id])
        schemas[f"{names[model.id]}Inputs"] = _inputs_schema(model, names[model.id])
    document["paths"]["/v1/tasks"]["post"]["requestBody"] = _task_body(served, names, catalog)
    for path in [path for path in document["paths"] if path.endswith(f"/v1/{MODEL_PATH}")]:
        template = document["paths"].pop(path)["post"]
        for model in served:
            place = path.replace(MODEL_PATH, model.id)
            document["paths"][place] = {"post": _operation(template, place, model, names[model.id])}


def example(model: Model) -> dict[str, Any]:
    """Return a small request for a model: every required member, and a prompt if it takes one."""
    values = {name: _example_of(name, model) for name in model.required}
    return ({"prompt": "a lighthouse at dawn"} if "prompt" in model.properties else {}) | values


def _named(models: list[Model]) -> Iterator[tuple[str, str]]:
    """Yield each id with a name that is unique and that generators can use as the name of a class."""
    taken: set[str] = set()
    for model in models:
        name = "".join(part[:1].upper() + part[1:] for part in re.split(r"[^A-Za-z0-9]+", model.id))
        while name in taken:
            name += "X"
        taken.add(name)
        yield model.id, name


def _task_schema(model: Model, name: str) -> dict[str, Any]:
    is_default = model.id == DEFAULT_MODEL
    selection = {"const": model.id, "type": "string", **({"default": model.id} if is_default else {})}
    return {
        "title": f"{name}Task",
        "description": f"A task for {model.id}, and options of Fluxhook.",
        "type": "object",
        "properties": {"model": selection, **_properties(model), **_OPTIONS},
        "required": [*([] if is_default else ["model"]), *model.required],
        **({"additionalProperties": False} if model.strict else {}),
    }


def _inputs_schema(model: Model, name: str) -> dict[str, Any]:
    options = {option: _OPTIONS[option] for option in COMPATIBLE_OPTIONS}
    properties = {
        member: schema if member in model.required else _or_null(schema)
        for member, schema in {**_properties(model), **options}.items()
    }
    return {
        "title": f"{name}Inputs",
        "description": f"A request for {model.id}, as the provider takes it.",
        "type": "object",
        "properties": properties,
        "required": list(model.required),
    }


def _task_body(served: list[Model], names: Mapping[str, str], catalog: Catalog) -> dict[str, Any]:
    references = {model.id: f"{_SCHEMAS}{names[model.id]}Task" for model in served}
    union = {
        "oneOf": [{"$ref": reference} for reference in references.values()],
        "discriminator": {"propertyName": "model", "mapping": references},
    }
    examples = {
        "text-to-image": {"value": {"prompt": "a lighthouse at dawn", "aspect_ratio": "16:9", "priority": 5}},
        **{model.id: {"value": {"model": model.id, **example(model)}} for model in served},
    }
    content = {
        "application/json": {"schema": union, "examples": examples},
        "multipart/form-data": {"schema": _form_schema(served, catalog)},
    }
    return {"required": True, "content": content}


def _form_schema(served: list[Model], catalog: Catalog) -> dict[str, Any]:
    file = {"type": "string", "format": "binary"}
    lists = {member for model in served if model.images.style == "list" for member in model.images.members}
    images = {member: {"type": "array", "items": file} if member in lists else file for member in catalog.image_members}
    in_parts = "One part for each name, or one part with commas between names."
    options = {**_OPTIONS, LIST_FIELD: {**_OPTIONS[LIST_FIELD], "description": in_parts}}
    return {
        "title": "TaskForm",
        "description": "The fields are those of the JSON body of the same model; images are files, or text as in JSON.",
        "type": "object",
        "properties": {
            "model": {"type": "string", "enum": [model.id for model in served], "default": DEFAULT_MODEL},
            "prompt": {"type": "string"},
            **images,
            **options,
        },
        "additionalProperties": {"type": "string"},
    }


def _operation(template: dict[str, Any], path: str, model: Model, name: str) -> dict[str, Any]:
    content = {
        "schema": {"$ref": f"{_SCHEMAS}{name}Inputs"},
        "examples": {"minimal": {"value": example(model)}},
    }
    parameters = [parameter for parameter in template.get("parameters", []) if parameter["name"] != "model"]
    return {
        **template,
        "summary": f"Submit {model.id}",
        "description": f"Submit a task for {model.id}. Tasks are queued; there is no 429. {model.note}".strip(),
        "operationId": re.sub(r"[^a-z0-9]+", "_", f"submit{path}".lower()),
        "parameters": parameters,
        "requestBody": {"required": True, "content": {"application/json": content}},
    }


def _properties(model: Model) -> dict[str, Any]:
    """Return the schemas of the members, without formats that only the catalog knows."""
    return {
        name: {key: value for key, value in schema.items() if (key, value) != ("format", "aspect-ratio")}
        for name, schema in model.properties.items()
    }


def _or_null(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    types = schema.get("type")
    if "anyOf" in schema or not schema or (isinstance(types, list) and "null" in types):
        return schema
    annotations = {key: schema[key] for key in ("title", "description", "default") if key in schema}
    rest = {key: value for key, value in schema.items() if key not in annotations}
    return {**annotations, "anyOf": [rest, {"type": "null"}]}


def _example_of(name: str, model: Model) -> Any:
    if name in model.images.members:
        return [_PHOTO] if model.images.style == "list" else _PHOTO
    schema = model.properties[name]
    if schema.get("type") == "integer":
        return 1024
    return "a lighthouse at dawn" if name == "prompt" else "my-finetune"
