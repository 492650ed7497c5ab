"""The reserve of disk space: what new tasks may not use, so that tasks in progress can be received and stored."""

import asyncio
import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from app.errors import DiskFull

_MB = 1024 * 1024
_DEFAULT = 512 * _MB
_SMALL_SHARE = 10  # the reserve of a smaller volume is a tenth of it
_FRESH_S = 1.0
_WAIT_S = 1.0  # a network file system may hang without limit


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume that tasks fill, named for what lies on it. Sizes are in bytes."""

    name: str
    free: int
    reserve: int

    @property
    def is_full(self) -> bool:
        return self.free < self.reserve

    @property
    def note(self) -> str | None:
        """What an operator should know: None until twice the reserve is reached."""
        if self.free >= 2 * self.reserve:
            return None
        left = f"the disk of {self.name} has {self.free // _MB} MB left"
        if self.is_full:
            return f"no tasks are accepted or submitted: {left}, and {self.reserve // _MB} MB are reserved"
        return f"{left}: below {self.reserve // _MB} MB no tasks are accepted or submitted"


def free_space(folder: Path) -> tuple[int, int] | None:
    """Return the device of a folder and its free bytes, or None for a folder that does not exist. Blocks."""
    try:
        return folder.stat().st_dev, shutil.disk_usage(folder).free
    except OSError:
        return None


class DiskReserve:
    """The volumes of these folders, by name. Without a `reserve` in bytes: 512 MB, or a tenth of a smaller volume."""

    def __init__(self, folders: Mapping[str, Path], reserve: int | None = None) -> None:
        self.reserve = reserve
        self._folders = folders
        self._known: Sequence[Volume] = ()
        self._known_until = 0.0
        self._reading: asyncio.Future[Sequence[Volume]] | None = None
        self._thread = ThreadPoolExecutor(1, "disk-reserve")

    def read(self) -> list[Volume]:
        """Read the free space of each volume. Blocks. A folder that does not exist is left out."""
        volumes: dict[int, Volume] = {}  # by device
        for name, folder in self._folders.items():
            with suppress(OSError):
                usage = shutil.disk_usage(folder)
                reserve = min(_DEFAULT, usage.total // _SMALL_SHARE) if self.reserve is None else self.reserve
                volumes.setdefault(folder.stat().st_dev, Volume(name, usage.free, reserve))
        return list(volumes.values())

    async def volumes(self) -> Sequence[Volume]:
        """Return what was read in the last second. If a volume hangs, return what was known before."""
        if self._folders and time.monotonic() >= self._known_until:
            if self._reading is None or self._reading.done():
                self._reading = asyncio.get_running_loop().run_in_executor(self._thread, self.read)
            await asyncio.wait([self._reading], timeout=_WAIT_S)
            if self._reading.done():
                self._known, self._known_until = self._reading.result(), time.monotonic() + _FRESH_S
        return self._known

    async def require(self, more: int = 0) -> None:
        """Raise DiskFull if less than the reserve and `more` bytes are free."""
        if any(volume.free < volume.reserve + more for volume in await self.volumes() if volume.reserve):
            raise DiskFull("the disk is nearly full: tasks in progress go on, new ones are not accepted at present")
