"""Images for tests: small real ones, and files that claim larger dimensions."""

import base64
import struct
import zlib
from io import BytesIO

from PIL import Image, ImageDraw, ImageFilter

_PNG_HEADER = 8 + 25  # bytes of the magic number and the header chunk


def picture(width: int = 320, height: int = 256, form: str = "PNG") -> bytes:
    out = BytesIO()
    Image.new("RGB", (width, height), "teal").save(out, form)
    return out.getvalue()


def photo(form: str = "JPEG") -> bytes:
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
    out = BytesIO()
    image.save(out, form, exif=exif, **({"quality": 85} if form == "JPEG" else {}))
    return out.getvalue()


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def claims(width: int, height: int) -> bytes:
    """Return a PNG of less than 1 kB that claims these dimensions."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    packed = zlib.compress(bytes(64))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", packed) + _chunk(b"IEND", b"")


def padded(size: int) -> bytes:
    """Return a small image, padded to exactly this many bytes."""
    small = picture()
    return small + bytes(size - len(small))


def with_chunk(kind: bytes, data: bytes, *, damaged: bool = False) -> bytes:
    """Return a PNG with one more chunk behind its header; `damaged` gives the chunk a wrong checksum."""
    image, at = picture(), _PNG_HEADER
    chunk = _chunk(kind, data)
    return image[:at] + (chunk[:-1] + bytes([chunk[-1] ^ 1]) if damaged else chunk) + image[at:]


def large_profile() -> bytes:
    """Return a PNG with an ICC profile that inflates to 2 MB."""
    return with_chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(2 * 1024 * 1024)))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
