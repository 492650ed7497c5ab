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
_PNG_MAGIC = 8  # bytes
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
        if info.media_type == "image/png":
            _come_to_its_end(file)
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


def _come_to_its_end(png: IO[bytes]) -> None:
    """Pillow takes a PNG for whole once it has all pixels of the first frame. Raises EOFError, struct.error."""
    size, at, kind = png.seek(0, 2), _PNG_MAGIC, b""
    while kind != b"IEND":
        png.seek(at)
        length, kind = struct.unpack(">I4s", png.read(8))
        at += 12 + length  # the length, the kind, what is in it, and its checksum
    if at > size:
        raise EOFError


def _info(image: Image.Image) -> ImageInfo:
    return ImageInfo(MEDIA_TYPES[image.format or ""], image.width, image.height)
