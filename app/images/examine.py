"""Examine the file of a result: what it is, and what keeps it from being verified.

A result has been paid for, so nothing here refuses it. Metadata that a strict decoder stops at is left out of a copy,
and the pixels are decoded from that.
"""

import os
import struct
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import IO

from app.images.inspect import EXTENSIONS, ImageInfo, NotAnImage, decode, inspect

UNKNOWN = "application/octet-stream"
_MAGIC = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}
_HEAD = 512  # bytes that tell text from binary data
_WHITE_SPACE = b"\t\n\f\r"
_COPIED = 1024 * 1024  # bytes at a time
_MAX_CHUNKS = 100_000  # a file of 64 MB in the usual chunks of 8 kB has 8,000
_METADATA_SEGMENTS = frozenset({*range(0xE0, 0xF0), 0xFE})  # application data, and comments
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, b"\xff\xd9"

# Opens an empty temporary file.
NewFile = Callable[[], IO[bytes]]


def extension_of(media_type: str) -> str:
    return EXTENSIONS.get(media_type, "bin")


def read_header(file: IO[bytes], new_file: NewFile) -> ImageInfo:
    """Return what the file is. If no image can be read, its magic bytes give the media type, and its size is 0 x 0."""
    try:
        return inspect(file)
    except Exception:  # noqa: BLE001 - Pillow raises more than its documentation says
        return _read_bare_header(file, new_file) or ImageInfo(_media_type(file), 0, 0)


def find_problem(file: IO[bytes], new_file: NewFile, info: ImageInfo, *, max_pixels: int) -> str | None:
    """Decode every pixel. Return why the image is not verified, or None for a whole image."""
    try:
        decode(file, max_pixels=max_pixels)
    except NotAnImage as error:
        reason = str(error)
    except Exception as error:  # noqa: BLE001
        reason = f"the decoder failed: {type(error).__name__}"
    else:
        return None
    if info.pixels <= max_pixels and _pixels_are_whole(file, new_file, max_pixels):
        return "its pixels are complete, but its metadata is damaged or too large to be read"
    if info.media_type == "image/jpeg" and not _ends_with(file, _END_OF_IMAGE):
        return "its end marker is missing, so it may be cut off"
    return reason


def _ends_with(file: IO[bytes], end: bytes) -> bool:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - len(end)))
    return file.read() == end


def is_text(file: IO[bytes]) -> bool:
    """Whether the file is empty, or begins as text does: without control characters. So does an error page."""
    file.seek(0)
    return not any(byte < ord(" ") and byte not in _WHITE_SPACE for byte in file.read(_HEAD))


def _media_type(file: IO[bytes]) -> str:
    file.seek(0)
    head = file.read(16)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return next((media_type for magic, media_type in _MAGIC.items() if head.startswith(magic)), UNKNOWN)


def _read_bare_header(file: IO[bytes], new_file: NewFile) -> ImageInfo | None:
    try:
        with _without_metadata(file, new_file) as bare:
            return inspect(bare)
    except Exception:  # noqa: BLE001
        return None


def _pixels_are_whole(file: IO[bytes], new_file: NewFile, max_pixels: int) -> bool:
    try:
        with _without_metadata(file, new_file) as bare:
            decode(bare, max_pixels=max_pixels)
    except Exception:  # noqa: BLE001
        return False
    return True


@contextmanager
def _without_metadata(file: IO[bytes], new_file: NewFile) -> Generator[IO[bytes]]:
    """Copy the parts of a PNG or JPEG that hold its pixels. Raises NotAnImage, struct.error, OSError."""
    copiers = {"image/png": _copy_png, "image/jpeg": _copy_jpeg}
    copier = copiers.get(_media_type(file))
    if copier is None:
        raise NotAnImage("a format without separate metadata")
    with new_file() as bare:
        copier(file, bare)
        yield bare


def _copy_png(png: IO[bytes], bare: IO[bytes]) -> None:
    """Copy the critical chunks: those whose type begins with a capital letter."""
    png.seek(0)
    bare.write(png.read(8))
    for _ in range(_MAX_CHUNKS):
        head = png.read(8)
        length, kind = struct.unpack(">I4s", head)
        if kind[:1].isupper():
            bare.write(head)
            _copy(png, bare, length + 4)
        else:
            png.seek(length + 4, os.SEEK_CUR)
        if kind == b"IEND":
            return
    raise NotAnImage("too many chunks")


def _copy_jpeg(jpeg: IO[bytes], bare: IO[bytes]) -> None:
    """Copy all segments but application data and comments. Behind the start of the scan, copy everything."""
    jpeg.seek(0)
    bare.write(jpeg.read(2))
    for _ in range(_MAX_CHUNKS):
        head = jpeg.read(4)
        prefix, marker, length = struct.unpack(">BBH", head)
        if prefix != 0xFF or length < 2:  # noqa: PLR2004 - the length counts its own two bytes
            raise NotAnImage("not a segment")
        if marker in _METADATA_SEGMENTS:
            jpeg.seek(length - 2, os.SEEK_CUR)
            continue
        bare.write(head)
        if marker == _START_OF_SCAN:
            _copy(jpeg, bare, None)
            return
        _copy(jpeg, bare, length - 2)
    raise NotAnImage("too many segments")


def _copy(source: IO[bytes], target: IO[bytes], length: int | None) -> None:
    """Copy this many bytes, or all if `length` is None. Stops early at the end of the source."""
    while length is None or length > 0:
        piece = source.read(_COPIED if length is None else min(length, _COPIED))
        if not piece:
            return
        target.write(piece)
        length = None if length is None else length - len(piece)
