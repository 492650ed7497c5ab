"""The provider's twin with its images made in advance, because making them would use measured CPU time."""

import math
import struct
import zlib
from collections.abc import Callable
from datetime import timedelta
from io import BytesIO

import httpx
from PIL import Image

from app import clock
from app.twin import Rules, Twin, create_twin_app
from app.twin.gallery import Gallery
from app.twin.server import TwinApp
from app.twin.task import Task

_SIDE = 1370  # pixels of noise, 3 bytes each: 5 MB as PNG
_SLOTS = 10_000  # the service keeps to its own limits
_END = 12  # bytes of the chunk that ends a PNG


class ReadyGallery(Gallery):
    """One image, with the task's id in its metadata, so that no two tasks get equal bytes."""

    def __init__(self, image: bytes, named: Callable[[bytes, str], bytes]) -> None:
        super().__init__()
        self._image, self._named = image, named

    async def picture(self, task: Task) -> bytes:
        data = self._named(self._image, task.id)
        self._keep(task, data)
        return data


class ReadyTwin(Twin):
    """A twin that keeps its ready images after a reset, which would make it paint."""

    ready: Callable[[], Gallery] | None = None

    def reset(self) -> None:
        super().reset()
        if self.ready is not None:
            self.gallery = self.ready()


def ready_twin(ready_after_s: float, megapixels: float | None = None) -> TwinApp:
    """Build a twin that is unchanged otherwise: proven callbacks, expiring links, slots.

    Its images are JPEGs of this many megapixels; PNGs of 5 MB if `megapixels` is None.
    """
    send = httpx.AsyncClient(trust_env=False)
    rules = Rules(
        ready_after=timedelta(seconds=ready_after_s), slots={"flux-kontext-pro": 10_000}, account_slots=10_000
    )
    twin = ReadyTwin(rules, now=clock.utc_now, send=send)
    image, name = (noise(_SIDE), named) if megapixels is None else (photo(megapixels), commented)
    twin.ready = lambda: ReadyGallery(image, name)
    twin.gallery = twin.ready()
    return create_twin_app(twin, owned=send)


def photo(megapixels: float) -> bytes:
    """Return a square JPEG of about a seventh of a byte per pixel, as of a photograph."""
    side = math.isqrt(round(megapixels * 1_000_000))
    small = Image.merge("RGB", [Image.effect_noise((side // 8, side // 8), 100) for _ in range(3)])
    out = BytesIO()
    small.resize((side, side), Image.Resampling.BICUBIC).save(out, "JPEG", quality=85)
    return out.getvalue()


def commented(jpeg: bytes, text: str) -> bytes:
    """Return this JPEG with the text added as its comment."""
    comment = text.encode("latin-1")
    return jpeg[:2] + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + jpeg[2:]


def noise(side: int) -> bytes:
    """Return an incompressible square PNG, about 3 bytes per pixel."""
    bands = [Image.effect_noise((side, side), 100) for _ in range(3)]
    out = BytesIO()
    Image.merge("RGB", bands).save(out, "PNG", compress_level=1)
    return out.getvalue()


def named(png: bytes, name: str) -> bytes:
    """Return this PNG with the name added as its title."""
    content = b"tEXt" + f"Title\0{name}".encode("latin-1")
    chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    return png[:-_END] + chunk + png[-_END:]
