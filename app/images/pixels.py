"""Decode the pixels of an input image completely, and turn an image upright. Metadata plays no part in the first."""

import hashlib
import struct
import zlib
from io import BytesIO

from PIL import Image

from app.images.inspect import BROKEN, NotAnImage
from app.images.structure import Structure

_PLUGINS = {"image/jpeg": "JPEG", "image/png": "PNG", "image/webp": "WEBP"}
UPRIGHT = 1
_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_ORIENTATION, _SHORT = 0x0112, 3  # the EXIF tag, and the type of its value
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_QUALITY = 95  # of a lossy format that is encoded again
_JPEG_END = b"\xff\xd9"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_STRIP = 256  # rows that are compared at once


def _filler(number: int) -> bytes:
    """Return bytes in the form of JPEG pixel data: without FF but for the markers that restart the decoder."""
    pieces = (hashlib.shake_128(bytes([number, part])).digest(64).replace(b"\xff", b"") for part in range(9))
    restarts = (bytes([0xFF, 0xD0 + part]) for part in range(8))
    return next(pieces) + b"".join(restart + piece for restart, piece in zip(restarts, pieces, strict=True))


_FILLERS = (_filler(1), _filler(2))


def decode(data: bytes, structure: Structure) -> None:
    """Decode every pixel. Raises NotAnImage for an image that is cut off or damaged.

    Only the end marker of a JPEG or a PNG may be missing, because no pixel depends on it.
    """
    view = memoryview(data)  # a large copy keeps all other threads waiting
    parts = [view[start:end] for start, end in structure.parts]
    try:
        if structure.media_type == "image/jpeg":
            # A decoder paints what is missing of a JPEG grey, without an error. It takes a filler for the missing part,
            # so two fillers make two images; if nothing is missing, it ignores them.
            first, second = (_checksum(b"".join((*parts, filler, _JPEG_END)), structure) for filler in _FILLERS)
            if first != second:
                raise EOFError
        else:
            _load(b"".join((*parts, _PNG_END) if structure.media_type == "image/png" else parts), structure)
    except BROKEN as error:
        raise NotAnImage("the image is cut off or damaged") from error


def orientation(structure: Structure) -> int:
    """Return the EXIF orientation of an image: 1 if it is upright or unknown, else 2 to 8."""
    return exif_orientation(structure.exif)


def exif_orientation(data: bytes) -> int:
    """Return the orientation in EXIF data, as `orientation` does.

    Pillow's reader is not used: it prints a warning about data that it cannot read.
    """
    exif = data.removeprefix(b"Exif\0\0")
    order = _BYTE_ORDERS.get(exif[:4])
    if order is None:
        return UPRIGHT
    try:
        (start,) = struct.unpack(f"{order}I", exif[4:8])
        (count,) = struct.unpack(f"{order}H", exif[start : start + 2])
        for at in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, _, value = struct.unpack(f"{order}HHIH", exif[at : at + 10])
            if tag == _ORIENTATION and kind == _SHORT and value in TURNS:
                return int(value)
    except struct.error:
        pass
    return UPRIGHT


def turned(data: bytes, structure: Structure) -> bytes:
    """Return the image turned upright, encoded again in its format, with its colour profile and no other metadata.

    Raises NotAnImage if it cannot be encoded.
    """
    turn = TURNS[orientation(structure)]
    try:
        image = _opened_for_turning(data, structure)
        out = BytesIO()
        image.transpose(turn).save(
            out,
            _PLUGINS[structure.media_type],
            quality=_QUALITY,
            subsampling=0,
            icc_profile=image.info.get("icc_profile"),
        )
    except BROKEN as error:
        raise NotAnImage("the image cannot be turned upright") from error
    return out.getvalue()


def _opened_for_turning(data: bytes, structure: Structure) -> Image.Image:
    """Return the image with its colour profile, or without it if it cannot be read."""
    try:
        image = Image.open(BytesIO(data), formats=[_PLUGINS[structure.media_type]])
        image.load()
    except BROKEN:
        pixels = b"".join(data[start:end] for start, end in structure.parts)
        return _load(pixels + _PNG_END, structure)
    return image


def _checksum(data: bytes, structure: Structure) -> int:
    """Return a checksum over the decoded pixels."""
    image = _load(data, structure)
    checksum = 0
    for top in range(0, image.height, _STRIP):
        strip = image.crop((0, top, image.width, min(top + _STRIP, image.height)))
        checksum = zlib.crc32(strip.tobytes(), checksum)
    return checksum


def _load(data: bytes, structure: Structure) -> Image.Image:
    image = Image.open(BytesIO(data), formats=[_PLUGINS[structure.media_type]])
    if image.size != (structure.width, structure.height):
        raise ValueError
    if structure.is_sequential:
        # An eighth in each direction shows what is missing as well as the whole, in a sixty-fourth of the memory.
        image.draft(image.mode, (max(1, image.width // 8), max(1, image.height // 8)))
    image.load()
    return image
