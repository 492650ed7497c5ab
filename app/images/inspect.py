"""Determine what an image file is, from its magic bytes and by decoding it, never from its name or media type."""

import struct
import zlib
from dataclasses import dataclass
from typing import IO

from PIL import Image, UnidentifiedImageError

# The limits here apply before anything is decoded. Pillow's own guard would only warn.
Image.MAX_IMAGE_PIXELS = None

# MPO is a JPEG followed by further images, as many phones write it.
MEDIA_TYPES = {"JPEG": "image/jpeg", "MPO": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
# The formats that Pillow may open. MPO is not listed: the JPEG plugin opens it, and naming it raises KeyError.
FORMATS = ("JPEG", "PNG", "WEBP")
_PNG_MAGIC = 8  # bytes
EXTENSIONS = {"image/jpeg": "jpeg", "image/png": "png", "image/webp": "webp"}


class NotAnImage(Exception):
    """The file is not a JPEG, PNG or WebP image, or it is damaged; the message says which."""


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
        with Image.open(file, formats=FORMATS) as image:
            return _info(image)
    except UnidentifiedImageError as error:
        raise NotAnImage("not a JPEG, PNG or WebP image") from error
    except BROKEN as error:
        raise NotAnImage("the image's header is broken") from error


def decode(file: IO[bytes], *, max_pixels: int) -> ImageInfo:
    """Decode every pixel, which detects truncated and damaged files. Raises NotAnImage, also above `max_pixels`."""
    info = inspect(file)
    if info.pixels > max_pixels:
        raise NotAnImage(f"{info.width}x{info.height} is more than {max_pixels} pixels")
    file.seek(0)
    try:
        with Image.open(file, formats=FORMATS) as image:
            image.load()
        if info.media_type == "image/png":
            _require_end(file)
    except BROKEN as error:
        raise NotAnImage("the image is cut off or damaged") from error
    return info


# The exceptions of Pillow on malformed files: OSError for most, the others from individual formats.
BROKEN = (
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


def _require_end(png: IO[bytes]) -> None:
    """Check that a PNG is complete. Pillow stops after the pixels of the first frame. Raises EOFError, struct.error."""
    size, at, kind = png.seek(0, 2), _PNG_MAGIC, b""
    while kind != b"IEND":
        png.seek(at)
        length, kind = struct.unpack(">I4s", png.read(8))
        at += 12 + length  # length, type, data and checksum of the chunk
    if at > size:
        raise EOFError


def _info(image: Image.Image) -> ImageInfo:
    return ImageInfo(MEDIA_TYPES[image.format or ""], image.width, image.height)
