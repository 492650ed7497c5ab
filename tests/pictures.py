"""Images for tests: small real ones, and files that claim larger dimensions."""

import base64
import struct
import zlib
from io import BytesIO
from typing import Any

from PIL import Image, ImageDraw, ImageFilter

_PNG_HEADER = 8 + 25  # bytes of the magic number and the header chunk


def picture(width: int = 320, height: int = 256, form: str = "PNG", **options: Any) -> bytes:
    out = BytesIO()
    Image.new("RGB", (width, height), "teal").save(out, form, **options)
    return out.getvalue()


def photo(form: str = "JPEG", orientation: int | None = None, **options: Any) -> bytes:
    """Return an image like a camera's, with soft shapes, grain and EXIF data; 512x384, about 20 to 300 kB."""
    size = (512, 384)
    sky = Image.linear_gradient("L").resize(size)
    upside_down = sky.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    image = Image.merge("RGB", (sky, Image.new("L", size, 120), upside_down))
    draw = ImageDraw.Draw(image)
    draw.ellipse((140, 90, 330, 280), fill=(214, 90, 40))
    draw.polygon([(0, 384), (180, 210), (300, 300), (512, 180), (512, 384)], fill=(40, 70, 50))
    grain = Image.effect_noise(size, 40).convert("RGB")
    image = Image.blend(image.filter(ImageFilter.GaussianBlur(2)), grain, 0.15)
    exif = Image.Exif()
    exif[0x010F], exif[0x0132] = "A camera", "2026:01:01 12:00:00"  # Make and DateTime
    if orientation is not None:
        exif[0x0112] = orientation
    out = BytesIO()
    image.save(out, form, exif=exif, **({"quality": 85} if form == "JPEG" else {}), **options)
    return out.getvalue()


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def claims(width: int, height: int) -> bytes:
    """Return a PNG of less than 1 kB that claims these dimensions."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    packed = zlib.compress(bytes(64))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def black(width: int, height: int) -> bytes:
    """Return a complete PNG of few kilobytes with black pixels of one bit."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    packed = zlib.compress(bytes(1 + (width + 7) // 8) * height, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def with_chunks(png: bytes, *chunks: bytes) -> bytes:
    """Return a PNG with further chunks after its header."""
    end_of_header = 33
    return png[:end_of_header] + b"".join(chunks) + png[end_of_header:]


def padded(size: int) -> bytes:
    """Return a small image, padded to exactly this many bytes."""
    small = picture()
    return small + bytes(size - len(small))


def with_chunk(kind: bytes, data: bytes, *, damaged: bool = False) -> bytes:
    """Return a PNG with one more chunk behind its header; `damaged` gives the chunk a wrong checksum."""
    image, at = picture(), _PNG_HEADER
    added = chunk(kind, data)
    return image[:at] + (added[:-1] + bytes([added[-1] ^ 1]) if damaged else added) + image[at:]


def large_profile() -> bytes:
    """Return a PNG with an ICC profile that inflates to 2 MB."""
    return with_chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(2 * 1024 * 1024)))


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
