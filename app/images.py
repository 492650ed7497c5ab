"""What an image file really is: told by its magic bytes and by decoding, never by its name or label."""

import struct
import zlib
from dataclasses import dataclass
from typing import IO

from PIL import Image, UnidentifiedImageError

# We compare pixels with our own limits before anything is decoded; Pillow's guard would only warn.
Image.MAX_IMAGE_PIXELS = None

# MPO is a JPEG with further pictures behind it: what many phones write.
MEDIA_TYPES = {"JPEG": "image/jpeg", "MPO": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
# What Pillow is asked to open: MPO has no opener of its own there, JPEG's finds it, and naming it is a KeyError.
_FORMATS = ("JPEG", "PNG", "WEBP")
EXTENSIONS = {"image/jpeg": "jpeg", "image/png": "png", "image/webp": "webp"}


class NotAnImage(Exception):
    """These bytes are no JPEG, PNG or WebP, or they are broken; the message says which."""


@dataclass(frozen=True, slots=True)
class ImageInfo:
    media_type: str
    width: int
    height: int

    @property
    def pixels(self) -> int:
        return self.width * self.height


def inspect(file: IO[bytes]) -> ImageInfo:
    """Read the header only. Raises NotAnImage."""
    file.seek(0)
    try:
        with Image.open(file, formats=_FORMATS) as image:
            return _info(image)
    except UnidentifiedImageError as error:
        raise NotAnImage("not a JPEG, PNG or WebP image") from error
    except _BROKEN as error:
        raise NotAnImage("the image's header is broken") from error


def decode(file: IO[bytes], *, max_pixels: int) -> ImageInfo:
    """Decode every pixel, so that a cut or damaged file is found. Raises NotAnImage."""
    info = inspect(file)
    if info.pixels > max_pixels:
        raise NotAnImage(f"{info.width}x{info.height} is more than {max_pixels} pixels")
    file.seek(0)
    try:
        with Image.open(file, formats=_FORMATS) as image:
            image.load()
    except _BROKEN as error:
        raise NotAnImage("the image is cut off or damaged") from error
    return info


# What Pillow raises on hostile files: OSError for most, the rest from the depths of one format or another.
_BROKEN = (
    OSError,
    EOFError,
    ValueError,
    SyntaxError,
    LookupError,
    TypeError,
    ArithmeticError,
    MemoryError,
    struct.error,
    zlib.error,
)


def _info(image: Image.Image) -> ImageInfo:
    return ImageInfo(MEDIA_TYPES[image.format or ""], image.width, image.height)
