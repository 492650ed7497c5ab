"""Recognise fields of other APIs: those that hold or name a picture, ask for several images, or name a webhook.

Names are compared in lower case without underscores and hyphens: `inputImage` is `inputimage`.
"""

import base64
import json
import re
from collections.abc import Collection, Iterator, Sequence
from difflib import get_close_matches
from itertools import islice

from app.catalog import ImageRules, Model
from app.images import formats
from app.rules.json_value import JsonValue, is_storable

_WEBHOOK = re.compile(
    r"webhook|callback|postback|^(http)?hooks?(ur[il]|endpoint|address|secret)?$|^notif\w*(ur[il]|hook|endpoint)$"
    r"|^notify$|^returnur[il]$|^on(complet\w*|finish\w*|done|success)$"
    r"|^(signing|shared|hmac)?secret(key)?$|^(signing|shared|hmac)key$"
)
# A field whose name is close to one of these is a misspelling of it.
_WEBHOOK_NAMES = ("webhook", "webhookurl", "webhooksecret", "callbackurl")
_CLOSE = 0.85  # of `difflib`
_SECRET = re.compile(r"secret|token|key|sign|auth")
_THINGS = (
    "(images?|imgs?|pictures?|pics?|photos?|outputs?|results?|samples?|variations?|variants?|generations?|candidates?)"
)
_COUNT = re.compile(
    r"^(n|count|quantity|batch|batchsize|batchcount|niter|howmany|copies)$"
    rf"|^(n|num|number|numberof|max|total|howmany){_THINGS}(perprompt|perrequest)?$"
    rf"|^{_THINGS}(count|num|number|amount|total|perprompt|perrequest|togenerate)$"
    r"|^(pictures|photos|outputs|results|samples|variations|variants|generations|candidates)$"
)
_PICTURE = re.compile(r"image|img|picture|photo|^pics?(ur[il])?$|mask|sketch|scribble|controlnet|inpaint")
_SETTING = re.compile(  # of a picture
    r"(size|format|quality|width|height|dimensions|strength|weight|scale|resolution|ratio|type|style|mode|steps|seed"
    r"|guidance|cfg|noise|blur|threshold|opacity|fidelity|detail|background|moderation|model)$"
)
_MASK = re.compile(r"mask|inpaint")
_FILES = frozenset({"file", "files", "fileid", "fileids", "upload", "uploads", "attachment", "attachments"})
# Names of pictures if their value is text, such as a file name or an id.
_NAMED_PICTURES = frozenset(
    {"init", "reference", "ref", "control", "conditioning", "firstframe", "lastframe", "garment", "person", "depthmap"}
    | {"assetid", "assetids", "refid", "referenceid"}
)
_COLLECTIONS = frozenset({"reference", "references", "refs", "inputs", "sources", "media", "assets", "frames"})
_ADDRESS = re.compile(
    r"\s*(data:[^,\s]{0,200},|blob:|//[a-z0-9-]+\.|[a-z][a-z0-9+.-]{1,20}://)"  # at the start of a text
    r"|[\s\S]{0,4096}?https?://\S{1,2048}?\.(png|jpe?g|webp|gif|avif|heic)\b",  # or a picture's anywhere in it
    re.IGNORECASE,
)
_PICTURE_FILE = re.compile(r"\s*[^\s]{1,1024}\.(png|jpe?g|webp|gif|bmp|tiff?|avif|heic)(\?\S*)?\s*", re.IGNORECASE)
_NUMBER_AT_END = re.compile(r"(\d{1,9})$")
_MAX_VALUES = 10_000  # inside one field; more do not fit into what may be passed on
_BASE64_HEAD = 1368  # characters; they hold the first kilobyte
_MIN_BASE64 = 64  # characters; no picture is shorter
_MIN_BYTES, _MAX_BYTE = 4, 255
_ONE_IMAGE = "one task makes one image: post a task for each image"


def plain(name: str) -> str:
    """Return a name in the form that is compared."""
    return re.sub(r"[\W_]+", "", name[:100]).lower()


def reason_to_refuse(name: str, value: JsonValue, model: Model, options: Collection[str]) -> str | None:
    """Return why a field that the model does not know must not be passed on, with the name of the right field; None
    if it may be.

    `value` is not empty. `options`: the names of the options of Fluxhook that the API takes.
    """
    compared, images = plain(name), model.images
    known = {plain(field): field for field in (*model.properties, *options)}
    if compared in known:
        return f"unknown field: use {known[compared]}"
    if (count := _count(compared, value)) is not None:
        return _ONE_IMAGE if count > 1 else None
    if _is_webhook(compared, value):
        return f"unknown field: {_webhook_hint(compared)}"
    if _is_picture(compared, value):
        return f"unknown field: {_hint(compared, value, images)}"
    reasons = (_reason_inside(inner_name, inner, images) for inner_name, inner in islice(_within(value), _MAX_VALUES))
    return next((reason for reason in reasons if reason is not None), None)


def is_empty(value: JsonValue) -> bool:
    """Whether clients send this value for a field that they do not use."""
    return value is None or value in ([], {}) or (isinstance(value, str) and not value.strip())


def _reason_inside(name: str, value: JsonValue, images: ImageRules) -> str | None:
    compared = plain(name)
    if compared and (count := _count(compared, value)) is not None:
        return _ONE_IMAGE if count > 1 else None
    if compared and _is_webhook(compared, value):
        return f"holds a webhook: {_webhook_hint(compared)}"
    if compared and _is_picture(compared, value):
        return f"holds a picture: {_hint(compared, value, images)}"
    if isinstance(value, list):
        return f"holds a picture: {_place(images)}" if _is_bytes_of_image(value) else None
    if not isinstance(value, str):
        return None
    if _is_image(value) or _is_hex_of_image(value):
        return f"holds a picture: {_place(images)}"
    if (inner := _as_json(value)) is not None:
        reasons = (_reason_inside(key, item, images) for key, item in islice(_within(inner), _MAX_VALUES))
        return next((reason for reason in reasons if reason is not None), None)
    if _ADDRESS.match(value):
        return f"holds an address: {_place(images)}, a webhook into webhook_url"
    if _PICTURE_FILE.fullmatch(value):
        return f"holds a picture: {_place(images)}"
    return None if is_storable(value) else "must be text without NUL characters or lone surrogates"


def _is_picture(compared: str, value: JsonValue) -> bool:
    """Whether a field holds or names a picture, judged by its name. Numbers and truth values are settings."""
    if compared == "images":
        return True
    if (
        isinstance(value, int | float)
        and not compared.endswith(("id", "ids"))
        and not compared.startswith("inputimage")
    ):
        return False
    if compared in _FILES or (compared in _COLLECTIONS and isinstance(value, list | dict)):
        return True
    if compared in _NAMED_PICTURES and isinstance(value, str):
        return True
    return bool(_PICTURE.search(compared)) and not _SETTING.search(compared)


def _hint(compared: str, value: JsonValue, images: ImageRules) -> str:
    """Return which field takes a picture of this name."""
    if _MASK.search(compared):
        has_mask = "mask" in images.members
        return "use mask" if has_mask else f"this model takes no mask; {_place(images)}"
    if images.style == "none":
        return "this model takes no images"
    if images.style != "numbered":
        return f"use {images.names}" if len(images.members) == 1 else _place(images)
    found = _NUMBER_AT_END.search(compared.removesuffix("64"))  # as in image_base64
    number = max(int(found[1]), 1) if found else 1
    if number > len(images.members):
        return f"this model takes {images.names}"
    is_one = not isinstance(value, list | dict) or len(value) == 1
    return f"use {images.members[number - 1] if is_one else images.names}"


def _place(images: ImageRules) -> str:
    return "this model takes no images" if images.style == "none" else f"images go into {images.names}"


def _within(value: JsonValue) -> Iterator[tuple[str, JsonValue]]:
    """Yield all values inside a value, each with its name if it is a member of an object; the names are values too."""
    waiting: list[tuple[str, JsonValue]] = [("", value)]
    while waiting:
        name, inner = waiting.pop()
        if isinstance(inner, dict):
            waiting += inner.items()
            waiting += (("", inner_name) for inner_name in inner)
        elif isinstance(inner, list):
            waiting += (("", item) for item in inner)
        if not is_empty(inner):
            yield name, inner


def _is_webhook(compared: str, value: JsonValue) -> bool:
    is_close = bool(get_close_matches(compared, _WEBHOOK_NAMES, 1, _CLOSE))
    return value is not False and (is_close or _WEBHOOK.search(compared) is not None)


def _webhook_hint(compared: str) -> str:
    is_secret = _SECRET.search(compared.replace("webhook", ""))
    return f"use {'webhook_secret' if is_secret else 'webhook_url'}"


def _count(compared: str, value: JsonValue) -> float | None:
    """Return how many images a field asks for, or None if it is about something else."""
    if not _COUNT.search(compared):
        return None
    if isinstance(value, dict) and len(value) == 1:
        value = next(iter(value.values()))
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return None if isinstance(value, bool) else _number(value)


def _as_json(text: str) -> JsonValue:
    """Return the object or list that a text holds as JSON, or None."""
    if text.lstrip()[:1] not in {"{", "["}:
        return None
    try:
        found: JsonValue = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict | list) else None


def _is_bytes_of_image(values: Sequence[JsonValue]) -> bool:
    """Whether a list holds the bytes of an image file, as numbers."""
    head = values[: formats.HEAD]
    if len(head) < _MIN_BYTES or not all(isinstance(value, int) and 0 <= value <= _MAX_BYTE for value in head):
        return False
    return formats.name_of(bytes(value for value in head if isinstance(value, int))) is not None


def _is_hex_of_image(text: str) -> bool:
    try:
        return formats.name_of(bytes.fromhex(text[: 2 * formats.HEAD])) is not None
    except ValueError:
        return False


def _is_image(text: str) -> bool:
    """Whether a text is the base64 of an image file."""
    head = "".join(text[:_BASE64_HEAD].split()).replace("-", "+").replace("_", "/")
    if len(head) < _MIN_BASE64:
        return False
    try:
        data = base64.b64decode(head[: len(head) // 4 * 4], validate=True)
    except ValueError:
        return False
    return formats.name_of(data) is not None


def _number(value: JsonValue) -> float | None:
    try:
        return float(value)  # type: ignore[arg-type] # other types raise TypeError
    except (TypeError, ValueError, OverflowError):
        return None
