"""Reading a request in OpenAI's form: its members in terms of the model, then checked as those of any task."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Literal

from fastapi import Request

from app.catalog import Model
from app.errors import InvalidRequest, ModelNotFound, UnsupportedMediaType
from app.params import OPTIONS, TaskParams
from app.resources import Policy, Resources
from app.rules.json_value import JsonObject, JsonValue
from app.store.uploads import Places
from app.web.body import media_type
from app.web.members import Files, Leniency, options_from_lenient_json, options_from_texts, to_params
from app.web.multipart import read_form
from app.web.openai import pictures, size
from app.web.openai.mask import as_white_mask
from app.web.openai.pictures import refused
from app.web.task_form import read_members
from app.web.uploads import ApplicationUploads

DEFAULT = "default"  # the alias of requests without a model
MAX_IMAGES = 10  # of one request, as at OpenAI
_MAX_PARTIAL = 3
_RESPONSE_FORMATS = ("b64_json", "url")
# What OpenAI's own models take. A model that has such a member gets it; for others, only values are accepted that leave
# the choice to the model, or that are true of every model.
_HARMLESS: Mapping[str, tuple[str, ...]] = {
    "quality": ("auto", "standard"),
    "background": ("auto", "opaque"),
    "moderation": ("auto",),
    "style": ("vivid",),
    "output_compression": ("100",),
    "input_fidelity": ("low",),
    **dict.fromkeys(("complexity", "frame_count", "frame_duration_ms", "svg", "markup"), ()),
}
_FORMAT = "png"  # the default of OpenAI; clients write the bytes into files of this name


@dataclass(frozen=True, slots=True)
class ImagesRequest:
    """A request for images: one task for each, and how they are returned."""

    params: TaskParams
    files: Files
    count: int
    response_format: Literal["b64_json", "url"]
    stream: bool  # as server-sent events
    names: Mapping[str, str] = field(default_factory=dict)  # of its images, by the slots of the model


async def read_generation(request: Request, use: Policy, places: Places, stack: AsyncExitStack) -> ImagesRequest:
    """Read a request for images from a text. `stack` closes its files. Raises the errors of `read_task`."""
    if media_type(request) != "application/json":
        raise UnsupportedMediaType("the content type must be application/json")
    members, files = await read_members(request, use.catalog, places, stack)
    return _translated(use, members, files, is_form=False)


async def read_edit(
    request: Request, use: Resources, places: ApplicationUploads, stack: AsyncExitStack
) -> ImagesRequest:
    """Read a request for images from other images. `stack` closes its files. Raises the errors of `read_task`."""
    declared = media_type(request)
    if declared == "multipart/form-data":
        members, files = await read_form(request, use.catalog, places, stack, (*pictures.IN_FORM, pictures.MASK))
    elif declared == "application/json":
        members, files = await read_members(request, use.catalog, places, stack, (*pictures.IN_JSON, pictures.MASK))
    else:
        raise UnsupportedMediaType("the content type must be multipart/form-data or application/json")
    is_form = declared == "multipart/form-data"
    model = _model(use, members)
    given = pictures.take(members, files, pictures.IN_FORM if is_form else pictures.IN_JSON)
    own = [name for name in model.images.members if name in members or name in files or f"{name}[0]" in files]
    if not given.images and not own:
        raise refused("image" if is_form else "images", "is required", "missing")
    if given.images and own:
        raise refused(given.images[0].name, f"give either this or {own[0]}")
    placed = given.placed(model)
    for slot, picture in placed.items():
        source = picture.source
        if slot == pictures.MASK:
            files[slot] = await as_white_mask(use, model, source, await places.share(), stack)
        elif isinstance(source, str):
            pictures.put_text(model, members, slot, source)
        else:
            files[slot] = source
    names = {slot: picture.name for slot, picture in placed.items()}
    try:
        return replace(_translated(use, members, files, is_form=is_form), names=names)
    except InvalidRequest as error:
        raise pictures.renamed(error, names) from None


def _translated(use: Policy, members: dict[str, JsonValue], files: Files, *, is_form: bool) -> ImagesRequest:
    model = _model(use, members)
    members.pop("model", None)
    count = _integer(members.pop("n", None), "n", 1, MAX_IMAGES, default=1)
    stream = _flag(members.pop("stream", None), "stream")
    _integer(members.pop("partial_images", None), "partial_images", 0, _MAX_PARTIAL, default=0)
    response_format = members.pop("response_format", None) or "b64_json"
    if response_format not in _RESPONSE_FORMATS:
        raise refused("response_format", "must be b64_json or url")
    if stream and response_format == "url":
        raise refused("response_format", "a stream has its images as b64_json")
    _take_harmless(members, model)
    _take_user(members)
    sized = _take_size(members, model)
    _set_format(members, model)
    read_options = options_from_texts if is_form else options_from_lenient_json
    given = {**members, **sized}
    try:
        params, kept = to_params(use.catalog, model, given, files, read_options, OPTIONS, leniency=Leniency.TEXTS)
    except InvalidRequest as error:
        raise _about_size(error, sized) from None
    return ImagesRequest(params, kept, count, "url" if response_format == "url" else "b64_json", stream)


def _model(use: Policy, members: Mapping[str, JsonValue]) -> Model:
    """Return the model that a request names, by its id or an alias; without a name the default."""
    name = members.get("model")
    if name is not None and not isinstance(name, str):
        raise refused("model", "must be text")
    return find_model(use, name)


def find_model(use: Policy, name: str | None) -> Model:
    """Return the model with this id or alias, or the default for None. Raises ModelNotFound."""
    aliases = use.openai.aliases
    if not name:
        return use.catalog.model(aliases[DEFAULT]) if DEFAULT in aliases else use.catalog.recommended
    model_id = aliases.get(name, name)
    model = use.catalog.get(model_id)
    if model is not None and model.kind == "image":
        return model
    named = sorted(alias for alias in aliases if alias != DEFAULT)
    also = f", and the aliases {', '.join(named)}" if named else "; the configuration file may define aliases"
    reason = f"{use.catalog.why_not(model_id)}{also}"
    raise ModelNotFound(f"model: {reason}", {"model": reason})


def _take_harmless(members: dict[str, JsonValue], model: Model) -> None:
    """Take out the members that only OpenAI's models have. Raises InvalidRequest for one that would have an effect."""
    for name, accepted in _HARMLESS.items():
        if name in model.properties or name not in members:
            continue
        value = members.pop(name)
        if value is not None and value != "" and str(value) not in accepted:
            only = f": leave it out, or give {' or '.join(accepted)}" if accepted else ": leave it out"
            raise refused(name, f"{model.id} has no such member{only}")


def _take_user(members: dict[str, JsonValue]) -> None:
    """Give the end user its name in Fluxhook: OpenAI renamed `user` to `safety_identifier`. Raises InvalidRequest."""
    given = {name: members.pop(name, None) for name in ("user", "safety_identifier")}
    named = {name: value for name, value in given.items() if value not in (None, "")}
    if len(named) > 1 and named["user"] != named["safety_identifier"]:
        raise refused("user", "differs from safety_identifier, and a task has one end user: give one of them")
    if named:
        members["user"] = next(iter(named.values()))


def _set_format(members: dict[str, JsonValue], model: Model) -> None:
    """Ask for OpenAI's default format if the request names none and the model has it. Raises InvalidRequest."""
    if members.get("output_format"):
        if "output_format" not in model.properties:
            raise refused("output_format", f"{model.id} chooses the format itself: leave it out")
        return
    members.pop("output_format", None)
    values = model.properties.get("output_format", {}).get("enum")
    if isinstance(values, list) and _FORMAT in values:
        members["output_format"] = _FORMAT


def _take_size(members: dict[str, JsonValue], model: Model) -> JsonObject:
    sized = size.members_of(members.pop("size", None), model)
    given = sorted({"width", "height", "aspect_ratio"} & members.keys())
    if sized and given:
        raise size.refused(f"give either size or {' and '.join(given)}")
    return sized


def _about_size(error: InvalidRequest, sized: JsonObject) -> InvalidRequest:
    """Return the error with `size` in place of the members that were made from it."""
    fields: dict[str, str] = {}
    types: dict[str, str] = {}
    for name, reason in error.fields.items():
        shown = "size" if name in sized else name
        fields.setdefault(shown, f"its {name} {reason}" if name in sized else reason)
        if name in error.types:
            types.setdefault(shown, error.types[name])
    changed = InvalidRequest("; ".join(f"{name}: {reason}" for name, reason in fields.items()), fields)
    changed.types = types
    return changed


def _integer(value: JsonValue, name: str, least: int, most: int, *, default: int) -> int:
    if value is None or value == "":
        return default
    text = str(value)
    number = int(text) if not isinstance(value, bool) and text.isdecimal() and len(text) <= len(str(most)) else None
    if number is None or not least <= number <= most:
        raise refused(name, f"must be an integer from {least} to {most}")
    return number


def _flag(value: JsonValue, name: str) -> bool:
    if value is None or value == "":
        return False
    if isinstance(value, bool):
        return value
    if str(value).lower() not in {"true", "false"}:
        raise refused(name, "must be true or false")
    return str(value).lower() == "true"
