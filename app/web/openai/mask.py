"""A mask in OpenAI's form as one in the provider's form."""

import asyncio
from contextlib import AsyncExitStack
from tempfile import TemporaryFile
from typing import IO

from app.catalog import Model
from app.errors import DiskUnavailable, InvalidRequest
from app.images.inputs import read_source
from app.images.inspect import NotAnImage
from app.images.masks import white_where_transparent
from app.resources import Resources
from app.rules.shares import Share
from app.web.openai.pictures import MASK, Source


async def as_white_mask(use: Resources, model: Model, source: Source, share: Share, stack: AsyncExitStack) -> IO[bytes]:
    """Return the mask, white where it was transparent; unchanged if it has no transparency. `stack` closes the file.

    `share`: of the application, in images that are fetched at once.

    Raises InvalidRequest, TooLarge, LimitExceeded, Overloaded, and DiskUnavailable.
    """
    try:
        file = await _file(use, model, source, share, stack) if isinstance(source, str) else source
        white = await white_where_transparent(use, file, model.images.max_pixels)
    except NotAnImage as error:
        raise InvalidRequest(f"{MASK}: {error}", {MASK: str(error)}) from error
    except OSError as error:
        raise DiskUnavailable(f"an image cannot be stored: {error.strerror}") from error
    if white is None:
        return file
    stack.push_async_callback(asyncio.to_thread, white.close)
    return white


async def _file(use: Resources, model: Model, text: str, share: Share, stack: AsyncExitStack) -> IO[bytes]:
    """Return a file with the image that a text holds or names. Raises InvalidRequest, TooLarge and OSError."""
    file: IO[bytes] = await asyncio.to_thread(TemporaryFile, dir=use.scratch)
    stack.push_async_callback(asyncio.to_thread, file.close)
    await read_source(use, model.images, MASK, text.strip(), file, share)
    return file
