"""Renders images with Pillow, in memory and deterministically.

Words in the prompt select effects, in any combination: "black and white" (or "grayscale"), "sepia", "invert" (or
"negative"), "blur", "rotate" (by 90 degrees clockwise), "mirror". A prompt without any of them is written on the image.
Without an input image, one is painted first.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Literal

from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

from app.twin.painting import paint

Format = Literal["jpeg", "png", "webp"]
Size = tuple[int, int]

# Fast rather than small: a download should not wait for better compression.
SAVE_OPTIONS: dict[Format, dict[str, int]] = {
    "jpeg": {"quality": 90},
    "png": {"compress_level": 1},
    "webp": {"quality": 80, "method": 0},
}
PNG = b"\x89PNG\r\n\x1a\n"
SIDEWAYS = range(5, 9)  # EXIF orientations that swap width and height
ORIENTATION = 0x0112
STEP = 16  # width and height are multiples of this, as those of the provider
GRAIN = 96  # side of the grain tile in pixels; it is smooth when enlarged, so it compresses well


class UnreadableError(ValueError):
    """Pillow cannot open these bytes as an image."""


def output_size(ratio: float, megapixels: float) -> Size:
    """Return width and height for an area in units of 1024 x 1024 pixels and a ratio of width to height."""
    area = megapixels * 1024 * 1024
    return _side(math.sqrt(area * ratio)), _side(math.sqrt(area / ratio))


def _side(length: float) -> int:
    return max(STEP, round(length / STEP) * STEP)


def dimensions(data: bytes) -> Size:
    """Return width and height after the EXIF orientation, from the header only. Raises UnreadableError."""
    try:
        with Image.open(_leniently(data)) as image:
            width, height = image.size
            sideways = image.getexif().get(ORIENTATION) in SIDEWAYS
    except (
        OSError,
        ValueError,
        SyntaxError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as problem:
        raise UnreadableError from problem
    return (height, width) if sideways else (width, height)


def _leniently(data: bytes) -> BytesIO:
    """Return the image without what only a strict decoder minds: texts and profiles in a PNG, no end of a JPEG."""
    if data.startswith(b"\xff\xd8"):
        return BytesIO(data + b"\xff\xd9")
    if not data.startswith(PNG):
        return BytesIO(data)
    kept, at = [PNG], len(PNG)
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] in {b"IHDR", b"PLTE", b"IDAT", b"tRNS", b"eXIf", b"IEND"}:
            kept.append(data[at:end])
        at = end
    return BytesIO(b"".join(kept))


def render(prompt: str, seed: int, inputs: Sequence[bytes], size: Size, form: Format) -> bytes:
    """Return the encoded image. Takes tens of milliseconds of CPU time: call it in a thread."""
    image = _side_by_side(inputs, size) if inputs else paint(prompt, seed, size)
    effects = [effect for words, effect in EFFECTS if any(word in prompt.lower() for word in words)]
    image = _grained(image, seed)
    for effect in effects:
        image = effect(image)
    image = image if image.size == size else ImageOps.fit(image, size)
    if not effects:
        _write_caption(image, prompt)
    out = BytesIO()
    image.save(out, format=form, **SAVE_OPTIONS[form])
    return out.getvalue()


def _side_by_side(inputs: Sequence[bytes], size: Size) -> Image.Image:
    width, height = size
    canvas = Image.new("RGB", size, "white")
    for n, data in enumerate(inputs):
        left, right = width * n // len(inputs), width * (n + 1) // len(inputs)
        canvas.paste(_decoded(data, (right - left, height)), (left, 0))
    return canvas


def _decoded(data: bytes, size: Size) -> Image.Image:
    try:
        with Image.open(_leniently(data)) as image:
            # A JPEG can be decoded at reduced size, which saves most of the work for a large one.
            image.draft("RGB", (max(size), max(size)))
            upright = ImageOps.exif_transpose(image).convert("RGBA")
    except (OSError, ValueError, SyntaxError):
        # Only the header was checked when the task was accepted. A real model gets noise here, too.
        return Image.new("RGB", size, "gray")
    white = Image.new("RGBA", upright.size, "white")
    return ImageOps.fit(Image.alpha_composite(white, upright).convert("RGB"), size)


def _grained(image: Image.Image, seed: int) -> Image.Image:
    """Add a faint grain that depends on the seed, so that an edit depends on the seed, too."""
    noise = hashlib.shake_128(str(seed).encode()).digest(GRAIN * GRAIN)
    tile = Image.frombytes("L", (GRAIN, GRAIN), noise).resize(image.size, Image.Resampling.BILINEAR)
    return Image.blend(image, tile.convert("RGB"), 0.03)


def _black_and_white(image: Image.Image) -> Image.Image:
    return ImageOps.grayscale(image).convert("RGB")


def _sepia(image: Image.Image) -> Image.Image:
    return ImageOps.colorize(ImageOps.grayscale(image), "#1b0f05", "#fff1d6", mid="#a3794b")


def _blur(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.BoxBlur(min(image.size) / 60))


def _quarter_turn(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.ROTATE_270)


EFFECTS: tuple[tuple[tuple[str, ...], Callable[[Image.Image], Image.Image]], ...] = (
    (("black and white", "grayscale"), _black_and_white),
    (("sepia",), _sepia),
    (("invert", "negative"), ImageOps.invert),
    (("blur",), _blur),
    (("rotate",), _quarter_turn),
    (("mirror",), ImageOps.mirror),
)


def _write_caption(image: Image.Image, text: str) -> None:
    width, height = image.size
    size = max(10, height // 24)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, height - 2 * size, width, height), fill="#14141c")
    # With newlines, Pillow would lay out several lines; characters that do not fit only cost time.
    line = " ".join(text.split())[: 2 * width // size]
    draw.text((size, height - 1.5 * size), line, fill="#f4f1e8", font=ImageFont.load_default(size))
