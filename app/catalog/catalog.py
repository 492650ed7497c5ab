"""The catalog: every model by id, with the check of its requests."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from functools import cache, cached_property
from pathlib import Path

from app.catalog import loader
from app.catalog.check import CheckedRequest, RequestCheck
from app.catalog.model import Model
from app.errors import InvalidRequest
from app.rules.json_value import JsonValue
from app.rules.request import TaskRequest

DEFAULT_MODEL = "flux-kontext-pro"


class Catalog:
    """Models by id, in the order of the table. A later row replaces an earlier one of the same id.

    `pass_unknown`: the provider-compatible API passes on requests for models without a row.
    """

    def __init__(self, models: Iterable[Model], *, pass_unknown: bool = False) -> None:
        self._models = {model.id: model for model in models}
        self._checks: dict[str, RequestCheck] = {}
        self.pass_unknown = pass_unknown

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models.values())

    def get(self, model_id: str) -> Model | None:
        return self._models.get(model_id)

    @cached_property
    def served(self) -> list[str]:
        """The ids of the models that can be used: those that make images."""
        return [model.id for model in self._models.values() if model.kind == "image"]

    @cached_property
    def recommended(self) -> Model:
        """The first current model of the table that makes an image from a prompt alone; else the default model."""
        found = (m for m in self if (m.kind, m.status, m.required) == ("image", "current", ("prompt",)))
        return next(found, self._models[DEFAULT_MODEL])

    @cached_property
    def image_members(self) -> Collection[str]:
        """The names of all members that hold images, of any model."""
        return dict.fromkeys(member for model in self for member in model.images.members)

    @cached_property
    def max_images(self) -> int:
        """The largest number of images that a model takes."""
        return max(len(model.images.slots) for model in self)

    @cached_property
    def link_lives(self) -> Mapping[str, timedelta]:
        """How long a link to a result lives that does not state its expiry, by model."""
        return {model.id: timedelta(seconds=model.link_life_s) for model in self}

    @cached_property
    def slots(self) -> Mapping[str, int]:
        """The maximum number of tasks in flight of those models that have one of their own."""
        return {model.id: model.slots for model in self if model.slots is not None}

    def model(self, model_id: str) -> Model:
        """Return a model that can be used. Raises InvalidRequest with the list of those."""
        model = self._models.get(model_id)
        if model is not None and model.kind == "image":
            return model
        reason = self.why_not(model_id)
        raise InvalidRequest(f"model: {reason}", {"model": reason})

    def why_not(self, model_id: str) -> str:
        """Return why a model is not served, with the list of those that are."""
        what = "makes videos, and Fluxhook serves images only" if model_id in self._models else "is not in the catalog"
        return f"{model_id[:64]} {what}; served are {', '.join(self.served)}"

    def may_name_a_model(self, path: str) -> bool:
        """Whether a path below /v1 looks like the id of a model. Those with two parts have a known first one."""
        family, slash, _ = path.partition("/")
        return not slash or any(model_id.startswith(f"{family}/") for model_id in self._models)

    def of_task(self, model_id: str, request: TaskRequest) -> Model:
        """Return the row of a recorded task's model; without one, what was recorded with the task."""
        row = self._models.get(model_id)
        if row is not None:
            return row
        unlisted = loader.unlisted(model_id)
        return replace(unlisted, path=request.path or unlisted.path, webhook=request.webhook)

    def longest(self, model_id: str) -> timedelta:
        """Return the longest time that a task of this model may take at the provider."""
        row = self._models.get(model_id) or loader.unlisted(model_id)
        return timedelta(seconds=row.longest_s)

    def check(self, model: Model, members: Mapping[str, JsonValue], images: Collection[str]) -> CheckedRequest:
        """Check a request for a model; see `RequestCheck`."""
        check = self._checks.get(model.id)
        if check is None:
            check = RequestCheck(model)
            if model.id in self._models:
                self._checks[model.id] = check
        return check(members, images)


@cache
def shipped_catalog() -> Catalog:
    """Return the models that ship with Fluxhook, one catalog for this process."""
    return open_catalog()


def open_catalog(file: Path | None = None, *, pass_unknown: bool = False) -> Catalog:
    """Return the shipped models, with those of the operator's file added or in their place."""
    models = [*loader.shipped(), *(loader.from_file(file) if file is not None else [])]
    return Catalog(models, pass_unknown=pass_unknown)


def unlisted(model_id: str) -> Model:
    """Return the row for a model that is not in the catalog: with a webhook, and with any members."""
    return loader.unlisted(model_id)
