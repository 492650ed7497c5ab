"""The images of an edit: files, texts and references of a request, in the places that the model has for them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from app.catalog import Model
from app.errors import InvalidRequest, TooLarge
from app.rules.json_value import JsonValue
from app.web.members import Files

MASK = "mask"
IN_FORM = ("image",)  # the members with images
IN_JSON = ("images", "image")
_REFERENCE = frozenset({"image_url", "file_id"})

Source = str | IO[bytes]  # base64 or a URL, or a file


@dataclass(frozen=True, slots=True)
class Picture:
    """An image, and its name in the request, such as `image` or `images[0]`."""

    name: str
    source: Source


@dataclass(frozen=True, slots=True)
class Pictures:
    images: Sequence[Picture]
    mask: Picture | None

    def placed(self, model: Model) -> dict[str, Picture]:
        """Return the images by the model's slots, in their order; the mask has its own. Raises InvalidRequest."""
        slots = [slot for slot in model.images.slots if slot != MASK]
        if len(self.images) > len(slots):
            raise refused("image", f"{model.id} takes {len(slots)} at most" if slots else f"{model.id} takes none")
        placed = dict(zip(slots, self.images, strict=False))
        if self.mask is not None:
            if MASK not in model.images.members:
                raise refused(MASK, f"{model.id} takes no mask")
            placed[MASK] = self.mask
        return placed


def take(members: dict[str, JsonValue], files: Files, names: Sequence[str]) -> Pictures:
    """Take the images of these members, in their order, and the mask out of a request. Raises InvalidRequest."""
    images = [picture for name in names for picture in _take_member(members, files, name)]
    masks = _take_member(members, files, MASK)
    if len(masks) > 1:
        raise refused(MASK, "must be one image")
    return Pictures(images, masks[0] if masks else None)


def _take_member(members: dict[str, JsonValue], files: Files, name: str) -> list[Picture]:
    value = members.pop(name, None)
    found = [Picture(name, files.pop(name))] if name in files else []
    if not isinstance(value, list):
        items = [] if value is None or found else [(name, value)]
    else:
        items = [(f"{name}[{index}]", item) for index, item in enumerate(value)]
    for item_name, item in items:
        file = files.pop(item_name, None)
        found.append(Picture(item_name, _text(item_name, item) if file is None else file))
    return found


def _text(name: str, item: JsonValue) -> str:
    """Return an image that is text, or to which an object of OpenAI's form refers. Raises InvalidRequest."""
    if isinstance(item, dict):
        if item.get("file_id") is not None:
            raise refused(name, "a file_id cannot be used, because this API stores no files: give image_url")
        if item.keys() <= _REFERENCE:
            item = item.get("image_url")
    if not isinstance(item, str) or not item:
        raise refused(name, 'must be {"image_url": "..."} with an https URL or a data URL')
    return item


def put_text(model: Model, members: dict[str, JsonValue], slot: str, text: str) -> None:
    """Put an image that is text, base64 or a URL, where the members of the model have it."""
    if model.images.style != "list":
        members[slot] = text
        return
    member, _, index = slot.removesuffix("]").partition("[")
    items = members.setdefault(member, [])
    if isinstance(items, list):
        items.extend([None] * (int(index) - len(items)))
        items.append(text)


def renamed(error: InvalidRequest | TooLarge, names: Mapping[str, str]) -> InvalidRequest | TooLarge:
    """Return an error about slots of the model with the names that these images have in the request."""
    detail = error.detail
    for slot, name in names.items():
        detail = re.sub(rf"(?<![\w\]]){re.escape(slot)}: ", f"{name}: ", detail)
    fields = {names.get(field, field): reason for field, reason in error.fields.items()}
    if isinstance(error, TooLarge):
        return TooLarge(detail, fields)
    changed = InvalidRequest(detail, fields)
    changed.types = {names.get(field, field): kind for field, kind in error.types.items()}
    return changed


def refused(name: str, reason: str, kind: str | None = None) -> InvalidRequest:
    """Return the error about a member; `kind` is its type in the words of pydantic."""
    error = InvalidRequest(f"{name}: {reason}", {name: reason})
    error.types = {} if kind is None else {name: kind}
    return error
