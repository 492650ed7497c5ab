"""What clients rely on in the OpenAPI document: paths, names, types and statuses, without the texts around them."""

import json
from pathlib import Path
from typing import Any

KEPT = Path(__file__).with_name("contract.json")
_TEXTS = frozenset({"title", "description", "summary", "operationId", "tags", "examples", "example"})

# These occur in nearly every operation, so they are stored once.
_SHARED = frozenset(f"#/components/schemas/{name}" for name in ("Problem", "OpenAiError", "TaskView"))
_DEFAULT_MODEL = "flux-kontext-pro"


def contract(document: dict[str, Any]) -> dict[str, Any]:
    """Return every operation and webhook of the document with its references resolved and its texts removed.

    What the default model takes is stored in full; of the other models, the names of the members are.
    """
    models = _models(document)
    whole = json.loads(json.dumps(document))
    whole["paths"]["/v1/tasks"]["post"]["requestBody"]["content"].pop("application/json")
    for path in [path for path in whole["paths"] if path.rpartition("v1/")[2] in models.keys() - {_DEFAULT_MODEL}]:
        del whole["paths"][path]
    parts = {part: _bare(whole[part], whole, frozenset()) for part in ("paths", "webhooks")}
    shared = {name.rpartition("/")[2]: _bare(_resolved(whole, name), whole, frozenset()) for name in _SHARED}
    schemas = document["components"]["schemas"]
    return {
        **parts,
        "schemas": dict(sorted(shared.items())),
        "task": _bare(schemas[models[_DEFAULT_MODEL]], document, frozenset()),
        "models": {model: _members(schemas[name]) for model, name in models.items()},
    }


def _models(document: dict[str, Any]) -> dict[str, str]:
    """Return the name of the schema of a task, by model."""
    body = document["paths"]["/v1/tasks"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    return {model: name.rpartition("/")[2] for model, name in body["discriminator"]["mapping"].items()}


def _members(schema: dict[str, Any]) -> str:
    """Return the members of a schema, with a star at each that is required."""
    return ", ".join(f"{name}*" if name in schema["required"] else name for name in sorted(schema["properties"]))


def kept() -> dict[str, Any]:
    """Return the contract of the last release."""
    found: dict[str, Any] = json.loads(KEPT.read_text())
    return found


def _bare(node: Any, document: dict[str, Any], above: frozenset[str]) -> Any:
    if isinstance(node, list):
        return [_bare(item, document, above) for item in node]
    if not isinstance(node, dict):
        return node
    if isinstance(reference := node.get("$ref"), str):
        if reference in above or reference in _SHARED:
            return reference.rpartition("/")[2]
        return _bare(_resolved(document, reference), document, above | {reference})
    is_properties = not _TEXTS.isdisjoint(node) and all(isinstance(value, dict) for value in node.values())
    names = node if is_properties else node.keys() - _TEXTS
    return {name: _bare(node[name], document, above) for name in sorted(names)}


def _resolved(document: dict[str, Any], reference: str) -> Any:
    found: Any = document
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found
