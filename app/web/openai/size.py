"""OpenAI's `size` as members of a model: the same width and height, or exactly the same proportions."""

import math
import re

from app.catalog import Model
from app.errors import InvalidRequest
from app.rules.json_value import JsonObject, JsonValue

_SIZE = re.compile(r"([1-9]\d{0,4})[xX\u00d7]([1-9]\d{0,4})")
# BFL advises sides of such multiples, and does not say how it rounds others. Rows that know better have `multipleOf`.
_MULTIPLE = 16
_MEGAPIXEL = 1024 * 1024


def members_of(size: JsonValue, model: Model) -> JsonObject:
    """Return the members that give a result of this size, `WxH` or `auto`; none for `auto`.

    Raises InvalidRequest, which names what is possible, for a size that the model cannot make.
    """
    if size is None or size in ("", "auto"):
        return {}
    match = _SIZE.fullmatch(size) if isinstance(size, str) else None
    if match is None:
        raise refused("must be auto or WIDTHxHEIGHT in pixels, such as 1024x1024")
    width, height = int(match[1]), int(match[2])
    if {"width", "height"} <= model.properties.keys():
        return _sides(width, height, model)
    if "aspect_ratio" in model.properties:
        return _ratio(width, height, model)
    raise refused(f"{model.id} has no size to choose: give auto, or leave it out")


def refused(reason: str) -> InvalidRequest:
    return InvalidRequest(f"size: {reason}", {"size": reason})


def _sides(width: int, height: int, model: Model) -> JsonObject:
    for name, side in (("width", width), ("height", height)):
        if "multipleOf" not in model.properties[name] and side % _MULTIPLE:
            near = f"{_near(width, model, 'width')}x{_near(height, model, 'height')}"
            raise refused(f"{model.id} needs sides that are multiples of {_MULTIPLE}; the nearest is {near}")
    most = model.max_output_pixels
    if most is not None and width * height > most:
        largest = _largest(width, height, most)
        raise refused(f"{model.id} makes up to {most / _MEGAPIXEL:g} megapixels, such as {largest}")
    return {"width": width, "height": height}


def _largest(width: int, height: int, most: int) -> str:
    """Return the largest size of about these proportions that has at most `most` pixels."""
    factor = math.sqrt(most / (width * height))
    return "x".join(str(max(1, int(side * factor) // _MULTIPLE) * _MULTIPLE) for side in (width, height))


def _near(side: int, model: Model, name: str) -> int:
    """Return the nearest side that the model takes."""
    schema = model.properties[name]
    least, most = schema.get("minimum", _MULTIPLE), schema.get("maximum")
    near = round(side / _MULTIPLE) * _MULTIPLE
    if isinstance(most, int):
        near = min(near, most - most % _MULTIPLE)
    return max(near, least) if isinstance(least, int) else near


def _ratio(width: int, height: int, model: Model) -> JsonObject:
    """Return the aspect ratio that equals this size. The model decides on the number of pixels."""
    values = model.properties["aspect_ratio"].get("enum")
    if not isinstance(values, list):
        divisor = math.gcd(width, height)
        return {"aspect_ratio": f"{width // divisor}:{height // divisor}"}  # checked by the catalog
    ratios = [value for value in values if isinstance(value, str) and ":" in value]
    for ratio in ratios:
        across, down = map(int, ratio.split(":"))
        if across * height == down * width:
            return {"aspect_ratio": ratio}
    raise refused(f"{model.id} makes {', '.join(ratios)}; give a size with one of these proportions, or auto")
