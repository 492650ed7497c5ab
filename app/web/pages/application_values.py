"""What the form of an application has: its fields as members of the API's request, and back."""

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import NamedTuple

from app.rules.json_value import JsonValue
from app.rules.limits import Limits
from app.web.schemas.applications import ApplicationChangeBody, ApplicationView

Values = Mapping[str, str]
_UNLIMITED = "unlimited_"  # before the name of a limit: the box that says that there is none
_NO_LIMIT = "no limit"


class LimitField(NamedTuple):
    """A limit as the form shows it. `default`: the value of an empty field."""

    name: str
    label: str
    default: str
    may_be_unlimited: bool = True


_LABELS = {
    "in_flight": "Tasks in flight",
    "queued": "Queued tasks",
    "posts_per_minute": "Posts a minute",
    "tests_per_minute": "Test deliveries a minute",
    "uploads": "Large uploads at once",
    "streams": "Event streams at once",
    "deliveries": "Webhooks at once",
    "priority": "Highest priority",
}
_MEMBERS = ("name", "budget", "limits")


def limit_fields(defaults: Limits) -> list[LimitField]:
    """Return the fields of the limits. `defaults`: what holds for an application without limits of its own."""
    fields = []
    for name, label in _LABELS.items():
        value: int | None = getattr(defaults, name)
        fields.append(LimitField(name, label, _NO_LIMIT if value is None else f"{value:,}", name != "priority"))
    return fields


def members_of(fields: Values) -> dict[str, JsonValue]:
    """Return the members of the API's request. What is not filled in is omitted or null, and has its default."""
    limits: dict[str, JsonValue] = {}
    for name in _LABELS:
        if fields.get(name, "").strip():
            limits[name] = fields[name].strip()
        elif fields.get(_UNLIMITED + name) == "on":
            limits[name] = None
    budget: JsonValue = None
    if fields.get("credits", "").strip():
        budget = {"credits": fields["credits"].strip(), "period": fields.get("period", "")}
    return {"name": fields.get("name", "").strip(), "budget": budget, "limits": limits or None}


def contradictions(fields: Values) -> dict[str, str]:
    """Return the reasons, by field, for limits that have a number and are said to have none."""
    both = [name for name in _LABELS if fields.get(name, "").strip() and fields.get(_UNLIMITED + name) == "on"]
    return dict.fromkeys(both, "has a number and “no limit”: choose one")


def values_of(application: ApplicationView) -> dict[str, str]:
    """Return the fields that show an application as it is."""
    values = {"name": application.name}
    if application.budget is not None:
        values |= {"credits": _plain(application.budget["credits"]), "period": str(application.budget["period"])}
    for name, limit in (application.limits or {}).items():
        values[_UNLIMITED + name if limit is None else name] = "on" if limit is None else str(limit)
    return values


def changes(application: ApplicationView, body: ApplicationChangeBody) -> ApplicationChangeBody:
    """Return the members of a request that differ from the application."""
    before = application.model_dump(include={*_MEMBERS})
    after = body.model_dump(exclude_unset=True)
    changed = {name for name in _MEMBERS if (after[name] or None) != (before[name] or None)}
    return ApplicationChangeBody.model_validate(body.model_dump(include=changed, exclude_unset=True))


def version_of(application: ApplicationView) -> str:
    """Return a digest of what the form can change."""
    shown = application.model_dump(mode="json", include={*_MEMBERS})
    return sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else repr(number)
