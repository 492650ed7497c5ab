"""Large request bodies on the local disk: unnamed files, limited in number and in bytes."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Protocol

from app.errors import Overloaded
from app.rules.weighted_semaphore import WeightedSemaphore
from app.store.disk_reserve import DiskReserve

SMALL = 64 * 1024  # bytes; a smaller body needs no place
AT_ONCE = 32
MAX_BYTES = 512 * 1024 * 1024
_WAIT_S = 10.0


class Places(Protocol):
    """Where the body of one request may go."""

    def place(self, size: int) -> AbstractAsyncContextManager[None]:
        """Wait for a place for a body of up to `size` bytes, and hold it for the block. Raises FluxhookError."""
        ...

    def open(self) -> IO[bytes]:
        """Open a new file. Raises OSError."""
        ...

    def turn(self) -> AbstractAsyncContextManager[None]:
        """Wait for a turn to work on a body, and keep it for the block."""
        ...


class Uploads:
    """The folder of the bodies that arrive at present, and the limit of what it may hold.

    The files have no names, so they vanish with the process that wrote them.
    """

    def __init__(
        self,
        folder: Path,
        disk: DiskReserve,
        at_once: int = AT_ONCE,
        max_bytes: int = MAX_BYTES,
        wait_s: float = _WAIT_S,
    ) -> None:
        self._folder = folder
        self._disk = disk
        self._max_bytes = max_bytes
        self._bytes = WeightedSemaphore(max_bytes)
        self._least = max_bytes // at_once  # what each body counts for at least, which limits their number
        self.wait_s = wait_s  # for a place

    def empty(self) -> None:
        """Create the folder, or delete what an earlier process has left in it. Never raises OSError.

        On file systems without unnamed files, a file has a name for a moment, and a process may end just then.
        """
        with suppress(OSError):  # a full disk must not prevent the start
            self._folder.mkdir(parents=True, exist_ok=True)
            for left in self._folder.iterdir():
                left.unlink()

    @asynccontextmanager
    async def place(self, size: int) -> AsyncGenerator[None]:
        """Wait for a place for a body of up to `size` bytes, and hold it for the block.

        Raises Overloaded if none becomes free in time, and DiskFull.
        """
        async with AsyncExitStack() as held:
            try:
                async with asyncio.timeout(self.wait_s):
                    if size > SMALL:
                        await held.enter_async_context(self._bytes.taken(max(size, self._least)))
            except TimeoutError as error:
                raise Overloaded("too many large requests are being received: send this one again later") from error
            # Twice, because an image is in the body and in the store at the same time.
            await self._disk.require(2 * (self._max_bytes - self._bytes.free))
            yield

    def open(self) -> IO[bytes]:
        """Open a new file. Raises OSError."""
        return TemporaryFile(dir=self._folder)

    def turn(self) -> AbstractAsyncContextManager[None]:
        """Wait for nothing: only the bodies of an application take turns."""
        return nullcontext()
