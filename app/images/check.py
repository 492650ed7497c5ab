"""Check an input image by decoding it, in a bounded number of threads and a bounded amount of memory.

The time is bounded through the work: by the pixels, and by the parts of a file and the scans of a JPEG.
"""

import asyncio
import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO, TypeVar, TypeVarTuple

from app.images import pixels, structure
from app.images.inspect import NotAnImage
from app.images.structure import Structure
from app.resources import Connections, Resources
from app.threads import give_way

# Threads of its own, so that decoding delays neither the database nor the files of other requests.
_THREADS = ThreadPoolExecutor(4, "input-images", initializer=give_way)
# Bytes of memory for each pixel while an image is decoded. A sequential JPEG is decoded at an eighth of its size.
_BYTES_PER_PIXEL = {"image/jpeg": 10, "image/png": 4, "image/webp": 16}
_BYTES_PER_PIXEL_SEQUENTIAL = 1
_BYTES_PER_PIXEL_TURNED = 20
_MAX_WAITING = 6 * 1024**3  # bytes of the images that wait; they take about ten seconds
_MAX_WAIT_S = 30

A = TypeVarTuple("A")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Checked:
    """An image that was decoded. `file` is the given file, or a new one if the image was turned upright."""

    file: IO[bytes]
    bytes: int
    sha256: str
    structure: Structure
    orientation: int


async def check(use: Resources, file: IO[bytes], *, max_pixels: int, auto_orient: bool) -> Checked:
    """Decode an image completely and, with `auto_orient`, turn it upright.

    Raises NotAnImage, Overloaded if too many images wait to be decoded, and OSError.
    """
    found = await _in_thread(_structure_of, file)
    if found.pixels > max_pixels:
        raise NotAnImage(f"{found.width}x{found.height} is more than {max_pixels // 10**6} megapixels")
    orientation = pixels.orientation(found)
    is_turned = auto_orient and orientation != pixels.UPRIGHT
    memory = _memory(found, file.seek(0, 2), is_turned=is_turned)
    async with use.decoding_inputs.taken_in_time(memory, max_waiting=_MAX_WAITING, seconds=_MAX_WAIT_S):
        if is_turned:
            return await _in_thread(_decode_and_turn, use, file, found)
        return await _in_thread(_decode, file, found, orientation)


def _structure_of(file: IO[bytes]) -> Structure:
    return structure.read(_content(file))


def _decode(file: IO[bytes], found: Structure, orientation: int) -> Checked:
    data = _content(file)
    pixels.decode(data, found)
    return Checked(file, len(data), hashlib.sha256(data).hexdigest(), found, orientation)


def _decode_and_turn(use: Connections, file: IO[bytes], found: Structure) -> Checked:
    data = _content(file)
    pixels.decode(data, found)
    turned = pixels.turned(data, found)
    new_file = TemporaryFile(dir=use.scratch)  # noqa: SIM115 - the caller closes it
    new_file.write(turned)
    sha256 = hashlib.sha256(turned).hexdigest()
    return Checked(new_file, len(turned), sha256, structure.read(turned), pixels.UPRIGHT)


def _memory(found: Structure, size: int, *, is_turned: bool) -> int:
    """Return the bytes of memory that it takes to decode an image."""
    per_pixel = _BYTES_PER_PIXEL_SEQUENTIAL if found.is_sequential else _BYTES_PER_PIXEL[found.media_type]
    return found.pixels * (per_pixel + _BYTES_PER_PIXEL_TURNED * is_turned) + 2 * size


def _content(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()


async def _in_thread(work: Callable[[*A], T], *args: *A) -> T:
    return await asyncio.get_running_loop().run_in_executor(_THREADS, work, *args)
