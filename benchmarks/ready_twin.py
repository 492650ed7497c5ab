"""The provider's twin with its images made in advance, because making them would use measured CPU time."""

import struct
import zlib
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
_END = 12  # bytes of the chunk that ends a PNG


class ReadyGallery(Gallery):
    """One large image, with the task's id in its metadata, so that no two tasks get equal bytes."""

    def __init__(self) -> None:
        super().__init__()
        self._large = noise(_SIDE)

    async def picture(self, task: Task) -> bytes:
        data = named(self._large, task.id)
        self._keep(task, data)
        return data


def ready_twin(ready_after_s: float) -> TwinApp:
    """Build a twin that is unchanged otherwise: signed callbacks, expiring links, slots."""
    send = httpx.AsyncClient(trust_env=False)
    twin = Twin(Rules(ready_after=timedelta(seconds=ready_after_s)), now=clock.utc_now, send=send)
    twin.gallery = ReadyGallery()
    return create_twin_app(twin, owned=send)


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
