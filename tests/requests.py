"""Requests for tasks as the API makes them, for tests below it."""

from typing import Any

from app.catalog import DEFAULT_MODEL, shipped_catalog
from app.params import OPTIONS, TaskOptions, TaskParams


def task_params(prompt: str = "a red fox", model: str = DEFAULT_MODEL, **given: Any) -> TaskParams:
    """Return the checked parameters of a task; images are texts by slot."""
    catalog = shipped_catalog()
    row = catalog.model(model)
    options = {name: given.pop(name) for name in OPTIONS if name in given}
    if "user" in options and "user" in row.properties:
        given["user"] = options["user"]
    images = {name: given.pop(name) for name in row.images.slots if name in given}
    checked = catalog.check(row, {"prompt": prompt, **given}, images)
    return TaskParams(row, checked.parameters, images, TaskOptions.model_validate(options), checked.warnings)
