"""Downloads are buffered in chunks: many large results at once need little memory."""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from PIL import Image

from app.cli.process import give_back_large_blocks
from app.images.download import download, thumbnail_of, verify
from app.resources import Resources
from tests.downloads import downloads_from
from tests.world import TWIN, World

MB = 1024 * 1024
STATUS = Path("/proc/self/status")


class Pieces(httpx.AsyncByteStream):
    """A response body in chunks, as from a socket."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._data), 64 * 1024):
            yield self._data[start : start + 64 * 1024]


def noise(side: int) -> bytes:
    """An incompressible PNG: three bytes for each pixel."""
    out = BytesIO()
    Image.frombytes("RGB", (side, side), os.urandom(side * side * 3)).save(out, "PNG", compress_level=0)
    return out.getvalue()


def memory(name: str) -> int:
    """Memory of this process in bytes, by its name in /proc."""
    (line,) = [line for line in STATUS.read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) * 1024


def memory_now() -> int:
    """Return the memory in use, and reset the peak to it."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


async def bring(use: Resources, number: int) -> None:
    downloaded = await download(use, f"{TWIN}/{number}.png")
    with downloaded.file:
        image = await verify(use, downloaded, f"sub_{number}")
        await use.store.put(f"results/{number}.png", downloaded.file)
        assert await thumbnail_of(use, image, downloaded.file) is not None
    assert image.info.width == image.info.height


@pytest.mark.check  # takes seconds
@pytest.mark.skipif(not STATUS.exists(), reason="only Linux says how much memory a process took at most")
@pytest.mark.parametrize(("images", "side", "most"), [(32, 1330, 96 * MB), (3, 3000, 100 * MB)])
async def test_many_large_images_at_once_add_little_memory(world: World, images: int, side: int, most: int) -> None:
    """32 images of 5 MB would take 165 MB if all were decoded at once, besides as much for their files."""
    give_back_large_blocks()  # as `serve` does; else the peak depends on what earlier tests have freed
    data = noise(side)
    answer = httpx.MockTransport(lambda _: httpx.Response(200, stream=Pieces(data)))
    use = replace(world.use, results=downloads_from(answer, TWIN))
    await bring(use, 0)
    before = memory_now()
    await asyncio.gather(*(bring(use, number) for number in range(1, images)))

    assert memory("VmHWM") - before < most
