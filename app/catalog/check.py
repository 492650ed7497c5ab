"""Check the request for a model against its row, before anything is stored or sent."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from app.catalog.model import Model
from app.catalog.schema import UNKNOWN, Fault, Schema
from app.errors import InvalidRequest
from app.rules.json_value import JsonObject, JsonValue, is_storable

# Members that set the size of a result. A model ignores those of other models, and the result has
# another size than was asked for.
_SIZES = {
    "aspect_ratio": "the aspect ratio",
    "width": "the width in pixels",
    "height": "the height in pixels",
    "resolution": "the resolution",
}
# Words that clients send as an aspect ratio and that not every model knows.
_RATIO_WORDS = frozenset({"auto", "match_input_image"})


@dataclass(frozen=True, slots=True)
class CheckedRequest:
    """A request that its model accepts: the parameters to send, without images, and remarks for the client."""

    parameters: JsonObject
    warnings: tuple[str, ...]


class RequestCheck:
    """The check of one model."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._schema = Schema({**model.request, "type": "object", "required": list(model.required)})

    def __call__(self, members: Mapping[str, JsonValue], images: Collection[str]) -> CheckedRequest:
        """Check the parameters, and the slots of the images that come with them (see `ImageRules.slots`).

        Members that the model's row does not know are passed on with a warning, unless the model refuses them. A
        member that is null counts as absent. Raises InvalidRequest with a reason for each wrong member.
        """
        given = {name: value for name, value in members.items() if value is not None}
        faults = {name: Fault(reason) for name, value in given.items() if (reason := _not_storable(value))}
        if not faults:
            known = {name: value for name, value in given.items() if name in self._model.properties}
            found = self._schema.faults(known | self._stand_ins(images))
            faults = found | self._unknown(given) | self._images(images) | self._not_integers(known)
            faults |= self._ratio_words(found, known)
        if faults:
            raise _invalid(faults)
        defaults = {name: self._model.properties[name].get("default") for name in self._model.send_defaults}
        return CheckedRequest({**defaults, **given}, tuple(self._warnings(given, images)))

    def _warnings(self, given: JsonObject, images: Collection[str]) -> list[str]:
        model = self._model
        warnings = [
            f"{name}: unknown to {model.id}; passed on to the provider, which may ignore it"
            for name in given
            if name not in model.properties
        ]
        tolerance, limit = given.get("safety_tolerance"), model.edit_tolerance
        if images and limit is not None and isinstance(tolerance, int | float) and tolerance > limit:
            warnings.append(
                f"safety_tolerance above {limit} with an input image: BFL's editing guide allows 0 to {limit}"
            )
        return warnings

    def _not_integers(self, known: JsonObject) -> dict[str, Fault]:
        """Refuse 5.0 for an integer: JSON Schema accepts it, and the models of the provider may not."""
        return {
            name: Fault("must be an integer", "int_from_float")
            for name, value in known.items()
            if isinstance(value, float) and _takes_integers_only(self._model.properties[name])
        }

    def _ratio_words(self, found: Mapping[str, Fault], known: JsonObject) -> dict[str, Fault]:
        word = known.get("aspect_ratio")
        if "aspect_ratio" not in found or not isinstance(word, str) or word not in _RATIO_WORDS:
            return {}
        values = self._model.properties["aspect_ratio"].get("enum")
        instead = "give auto" if isinstance(values, list) and "auto" in values else f"leave it out: {self._by_itself()}"
        return {"aspect_ratio": Fault(f"{self._model.id} does not know {word}; {instead}")}

    def _stand_ins(self, images: Collection[str]) -> dict[str, JsonValue]:
        """Return a value of the right type for each member that has images, to check that required ones are there."""
        lists: dict[str, list[JsonValue]] = {}
        single: dict[str, JsonValue] = {}
        for slot in images:
            member, _, index = slot.partition("[")
            if index:
                lists.setdefault(member, []).append("image")
            else:
                single[member] = "image"
        return {name: value for name, value in {**lists, **single}.items() if name in self._model.properties}

    def _images(self, images: Collection[str]) -> dict[str, Fault]:
        rules, faults = self._model.images, dict[str, Fault]()
        for slot in images:
            if slot not in rules.slots:
                member = slot.partition("[")[0]
                faults[member] = Fault(f"{self._model.id} has no such image: {self._image_members()}")
        if rules.style == "numbered" and not faults:
            for slot in rules.slots[: len(images)]:
                if slot not in images:
                    faults[slot] = Fault("missing: images are numbered without a gap")
        return faults

    def _image_members(self) -> str:
        rules = self._model.images
        if rules.style == "none":
            return "it takes no images"
        return f"it takes up to {rules.max} in {rules.names}" if rules.style == "list" else f"it takes {rules.names}"

    def _unknown(self, given: Mapping[str, JsonValue]) -> dict[str, Fault]:
        unknown = [name for name in given if name not in self._model.properties]
        sizes = {name: Fault(self._instead(name, given[name])) for name in unknown if name in _SIZES}
        if self._model.strict:
            members = ", ".join(self._model.properties)
            fault = Fault(f"{self._model.id} has no such member: it takes {members}", UNKNOWN.type)
            return {**dict.fromkeys(unknown, fault), **sizes}
        has_size = any(name in given for name in _SIZES if name in self._model.properties)
        return {} if has_size else sizes

    def _instead(self, name: str, value: JsonValue) -> str:
        """Say what sets the size of the result, for a member that this model would ignore."""
        names = [known for known in _SIZES if known in self._model.properties]
        if value in _RATIO_WORDS or not names:
            return f"{self._model.id} has no {name}; leave it out: {self._by_itself()}"
        return f"{self._model.id} has no {name}; give {' and '.join(names)} for {_SIZES[name]}"

    def _by_itself(self) -> str:
        if self._model.images.style == "none":
            return "the model chooses the size"
        if not any(name in self._model.properties for name in _SIZES):
            return "the result has the size of the input image"
        return "with an input image, the result has its proportions"


def _invalid(faults: Mapping[str, Fault]) -> InvalidRequest:
    reasons = {name: fault.reason for name, fault in faults.items()}
    error = InvalidRequest("; ".join(f"{name}: {reason}" for name, reason in reasons.items()), reasons)
    error.types = {name: fault.type for name, fault in faults.items()}
    return error


def _takes_integers_only(schema: JsonObject) -> bool:
    types = schema.get("type")
    names = types if isinstance(types, list) else [types]
    return "integer" in names and "number" not in names


def _not_storable(value: JsonValue) -> str | None:
    """Return why a value cannot be stored; None if it can. JSON has no infinity and no NaN."""
    waiting = [value]
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, float) and not math.isfinite(inner):
            return "must be a finite number"
        if isinstance(inner, str) and not is_storable(inner):
            return "must be text without NUL characters or lone surrogates"
        if isinstance(inner, dict):
            waiting += [*inner, *inner.values()]
        elif isinstance(inner, list):
            waiting += inner
    return None
