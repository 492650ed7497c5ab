"""The provider's twin with its pictures made beforehand: painting them would take the processors that are measured."""

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
    """One large picture, which carries the name of whose it is, so that no two are the same."""

    def __init__(self) -> None:
        super().__init__()
        self._large = noise(_SIDE)

    async def picture(self, task: Task) -> bytes:
        data = named(self._large, task.id)
        self._keep(task, data)
        return data


def ready_twin(ready_after_s: float) -> TwinApp:
    """All else is the twin's own: signed callbacks, links that expire, slots."""
    send = httpx.AsyncClient(trust_env=False)
    twin = Twin(Rules(ready_after=timedelta(seconds=ready_after_s)), now=clock.utc_now, send=send)
    twin.gallery = ReadyGallery()
    return create_twin_app(twin, owned=send)


def noise(side: int) -> bytes:
    """A square PNG that does not compress, about 3 bytes for each pixel."""
    bands = [Image.effect_noise((side, side), 100) for _ in range(3)]
    out = BytesIO()
    Image.merge("RGB", bands).save(out, "PNG", compress_level=1)
    return out.getvalue()


def named(png: bytes, name: str) -> bytes:
    """This picture with a line of text in it."""
    content = b"tEXt" + f"Title\0{name}".encode("latin-1")
    chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    return png[:-_END] + chunk + png[-_END:]
