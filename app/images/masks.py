"""Masks: the providers edit where a mask is white, OpenAI where it is transparent."""

import asyncio
from io import BytesIO
from tempfile import TemporaryFile
from typing import IO

from PIL import Image

from app.images import pixels, structure
from app.images.inspect import BROKEN, NotAnImage
from app.resources import Connections, Resources

_BYTES_PER_PIXEL = 8  # the image with four channels, the mask, and their copies
_MAX_WAITING = 1024**3
_MAX_WAIT_S = 30
_OPAQUE = 255


async def white_where_transparent(use: Resources, file: IO[bytes], max_pixels: int) -> IO[bytes] | None:
    """Return a new file with a PNG that is white where the image is transparent; None if it is opaque everywhere.

    Raises NotAnImage, Overloaded and OSError.
    """
    data = await asyncio.to_thread(_content, file)
    found = await asyncio.to_thread(structure.read, data)
    if found.pixels > max_pixels:
        raise NotAnImage(f"{found.width}x{found.height} is more than {max_pixels // 10**6} megapixels")
    memory = found.pixels * _BYTES_PER_PIXEL + len(data)
    async with use.decoding_inputs.taken_in_time(memory, max_waiting=_MAX_WAITING, seconds=_MAX_WAIT_S):
        return await asyncio.to_thread(_converted, use, data, found)


def _content(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()


def _converted(use: Connections, data: bytes, found: structure.Structure) -> IO[bytes] | None:
    pixels.decode(data, found)
    try:
        image = Image.open(BytesIO(data), formats=["PNG", "WEBP", "JPEG"])
        if not image.has_transparency_data:
            return None
        alpha = image.convert("RGBA").getchannel("A")
    except BROKEN as error:
        raise NotAnImage("the image is cut off or damaged") from error
    if alpha.getextrema()[0] == _OPAQUE:
        return None
    file = TemporaryFile(dir=use.scratch)  # noqa: SIM115 - the caller closes it
    alpha.point([_OPAQUE - level for level in range(_OPAQUE + 1)]).save(file, "PNG")
    return file
