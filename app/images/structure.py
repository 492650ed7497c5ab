"""Read the structure of a JPEG, PNG or WebP file: its size, and which parts of it a decoder of the pixels needs.

Nothing is decoded and no metadata is interpreted, so the cost is bounded by the number of parts.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from app.images import formats
from app.images.inspect import NotAnImage

_SUPPORTED = "JPEG, PNG or WebP"
_MAX_PARTS = 65_536  # segments or chunks; a PNG of 20 MB in chunks of 8 kB has 2,500
_MAX_SCANS = 50  # of a JPEG: progressive files have about ten, and each scan is a pass over all pixels
_MAX_EXIF = 65_536  # bytes, the size of a JPEG segment

_JPEG = b"\xff\xd8\xff"
# FF 00 is an escape in the pixel data, FF D0 to FF D7 restart it, and FF before a marker is a fill byte.
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])", re.DOTALL)
_STANDALONE = frozenset({0x01, 0xD8})  # markers without a length
_END_OF_IMAGE, _START_OF_SCAN, _EXIF = 0xD9, 0xDA, 0xE1
_METADATA = frozenset({*range(0xE0, 0xF0), 0xFE})  # application segments and comments
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL = frozenset({0xC0, 0xC1})

_PNG = b"\x89PNG\r\n\x1a\n"
_PIXEL_CHUNKS = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})
_WEBP_IS_ANIMATED = 0x02


@dataclass(frozen=True, slots=True)
class Structure:
    """The structure of a file. `parts` are the ranges of bytes without metadata and without an end marker."""

    media_type: str
    width: int
    height: int
    parts: tuple[tuple[int, int], ...]
    exif: bytes = b""
    is_animated: bool = False
    is_sequential: bool = False  # a JPEG that does not have to be in memory as a whole to be decoded

    @property
    def pixels(self) -> int:
        return self.width * self.height


def read(data: bytes) -> Structure:
    """Return the structure of a whole file. Raises NotAnImage."""
    try:
        if data.startswith(_JPEG):
            return _jpeg(data)
        if data.startswith(_PNG):
            return _png(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
    except (struct.error, IndexError) as error:
        raise NotAnImage("the image's header is broken") from error
    name = formats.name_of(data[: formats.HEAD])
    raise NotAnImage(f"{name} is not supported: convert it to {_SUPPORTED}" if name else f"not a {_SUPPORTED} image")


def _jpeg(data: bytes) -> Structure:
    """The second image of a phone's MPO file, or its film, follows the end of the first image and is not read."""
    frame, exif, scans = (0, 0, 0), b"", 0
    parts = [(0, 2)]
    for marker, start, end, following in _segments(data):
        if marker == _EXIF and not exif and data[start + 4 : start + 10] == b"Exif\0\0":
            exif = data[start + 4 : end][:_MAX_EXIF]
        if marker == _START_OF_SCAN:
            scans += 1
            scan = data[start:following].rstrip(b"\xff")  # without the fill bytes before the next marker
            parts.append((start, start + len(scan)))
        elif marker not in _METADATA:
            parts.append((start, end))
        if marker in _FRAMES:
            frame = (marker, *struct.unpack(">HH", data[start + 5 : start + 9]))
    if not scans or not frame[1]:
        raise NotAnImage("the image's header is broken")
    if scans > _MAX_SCANS:
        raise NotAnImage(f"a JPEG may have at most {_MAX_SCANS} scans")
    marker, height, width = frame
    return Structure("image/jpeg", width, height, _joined(parts), exif, is_sequential=marker in _SEQUENTIAL)


def _segments(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yield marker, start and end of each segment, and the start of the following one, up to the end of the image."""
    found = _MARKER.search(data, 2)
    for _ in range(_MAX_PARTS):
        if found is None or found[1][0] == _END_OF_IMAGE:
            return
        marker, start = found[1][0], found.start()
        is_standalone = marker in _STANDALONE
        end = start + 2 + (0 if is_standalone else struct.unpack(">H", data[start + 2 : start + 4])[0])
        if end > len(data):
            raise NotAnImage("the image is cut off or damaged")
        found = _MARKER.search(data, end)
        if not is_standalone:
            yield marker, start, end, found.start() if found else len(data)
    raise NotAnImage(f"a JPEG may have at most {_MAX_PARTS} segments")


def _png(data: bytes) -> Structure:
    """The first frame of an animation is a usual PNG."""
    if data[12:16] != b"IHDR":
        raise NotAnImage("the image's header is broken")
    width, height = struct.unpack(">II", data[16:24])
    parts, exif, frames = [(0, len(_PNG))], b"", 1
    for kind, start, end in _chunks(data, len(_PNG), "big"):
        if kind == b"IEND":
            break
        if kind in _PIXEL_CHUNKS and (kind != b"IHDR" or start == len(_PNG)):
            parts.append((start, end))
        elif kind == b"eXIf":
            exif = data[start + 8 : end][:_MAX_EXIF]
        elif kind == b"acTL":
            frames = struct.unpack(">I", data[start + 8 : start + 12])[0]
    return Structure("image/png", width, height, _joined(parts), exif, is_animated=frames > 1)


def _webp(data: bytes) -> Structure:
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    elif kind == b"VP8L":
        bits = struct.unpack("<I", data[21:25])[0]
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (side & 0x3FFF for side in struct.unpack("<HH", data[26:30]))
    is_extended = kind == b"VP8X"
    chunks = _chunks(data, 12, "little") if is_extended else ()
    exif = next((data[start + 8 : end][:_MAX_EXIF] for chunk, start, end in chunks if chunk == b"EXIF"), b"")
    is_animated = is_extended and bool(data[20] & _WEBP_IS_ANIMATED)
    return Structure("image/webp", width, height, ((0, len(data)),), exif, is_animated)


def _chunks(data: bytes, at: int, byteorder: Literal["big", "little"]) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start and end of each chunk of a PNG ("big") or WebP ("little"). The last one may be cut off.

    The content starts 8 bytes after the start. A PNG has a checksum of 4 bytes after it, a WebP a byte if it is odd.
    """
    for _ in range(_MAX_PARTS):
        first, second = data[at : at + 4], data[at + 4 : at + 8]
        if len(second) < 4:  # noqa: PLR2004 - bytes, as in the line above
            return
        is_png = byteorder == "big"
        kind, length = (second, first) if is_png else (first, second)
        size = int.from_bytes(length, byteorder)
        end = at + 8 + size + (4 if is_png else size % 2)
        yield kind, at, end
        at = end
    raise NotAnImage(f"an image may have at most {_MAX_PARTS} chunks")


def _joined(parts: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Return the ranges with neighbours joined."""
    joined = parts[:1]
    for start, end in parts[1:]:
        if start == joined[-1][1]:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return tuple(joined)
