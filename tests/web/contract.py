"""What clients rely on in the OpenAPI document: paths, names, types and statuses, without the texts around them."""

import json
from pathlib import Path
from typing import Any

KEPT = Path(__file__).with_name("contract.json")
_TEXTS = frozenset({"title", "description", "summary", "operationId", "tags", "examples", "example"})

# These occur in nearly every operation, so they are stored once.
_SHARED = frozenset(f"#/components/schemas/{name}" for name in ("Problem", "TaskView"))


def contract(document: dict[str, Any]) -> dict[str, Any]:
    """Return every operation and webhook of the document with its references resolved and its texts removed."""
    parts = {part: _bare(document[part], document, frozenset()) for part in ("paths", "webhooks")}
    shared = {name.rpartition("/")[2]: _bare(_resolved(document, name), document, frozenset()) for name in _SHARED}
    return {**parts, "schemas": dict(sorted(shared.items()))}


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
