"""Thumbnails: small WebP pictures for the pages, made from images that were checked before."""

from io import BytesIO
from typing import IO

from PIL import Image

from app.images.inspect import BROKEN, FORMATS
from app.images.pixels import TURNS, exif_orientation

MEDIA_TYPE = "image/webp"
MAX_BYTES = 20 * 1024
_MAX_SIDE = 320  # pixels
_QUALITIES = (60, 5)  # the first that is small enough is used; a photograph needs one, noise two


def make(file: IO[bytes], *, max_pixels: int) -> bytes | None:
    """Return a thumbnail of at most 320 pixels a side and 20 kB, upright; None for an image that cannot be decoded.

    Runs in a thread. It decodes the image, so the caller must hold its pixels of `Resources.decoding`.
    """
    try:
        file.seek(0)
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                return None
            # A large JPEG is decoded at a half, a quarter or an eighth of its size, which takes a fraction of the time.
            image.draft("RGB", (_MAX_SIDE, _MAX_SIDE))
            image.thumbnail((_MAX_SIDE, _MAX_SIDE), Image.Resampling.BILINEAR, reducing_gap=1.0)
            turn = TURNS.get(exif_orientation(image.info.get("exif", b"")))
            small = _plain(image)
        return _encoded(small if turn is None else small.transpose(turn))
    except BROKEN:
        return None


def _plain(image: Image.Image) -> Image.Image:
    """Return the image in a mode that WebP can hold."""
    has_alpha = "A" in image.getbands() or "transparency" in image.info
    return image.convert("RGBA" if has_alpha else "RGB")


def _encoded(image: Image.Image) -> bytes | None:
    for quality in _QUALITIES:
        out = BytesIO()
        image.save(out, "WEBP", quality=quality, method=0)  # the fastest: the task waits for it
        if out.tell() <= MAX_BYTES:
            return out.getvalue()
    return None
