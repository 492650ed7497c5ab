"""Pictures for tests: small real ones, and files that claim to be more than they are."""

import base64
import struct
import zlib
from io import BytesIO

from PIL import Image


def picture(width: int = 320, height: int = 256, form: str = "PNG") -> bytes:
    out = BytesIO()
    Image.new("RGB", (width, height), "teal").save(out, form)
    return out.getvalue()


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def claims(width: int, height: int) -> bytes:
    """A PNG under a kilobyte that says it is this large."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    packed = zlib.compress(bytes(64))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", packed) + _chunk(b"IEND", b"")


def padded(size: int) -> bytes:
    """A small picture in a file of exactly this many bytes."""
    small = picture()
    return small + bytes(size - len(small))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
