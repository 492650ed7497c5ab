"""The places for large bodies of one application: its own share, and those of the process."""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import IO

from app.resources import Resources
from app.rules.shares import Share
from app.store.uploads import SMALL
from app.transitions import limits


@dataclass(frozen=True, slots=True)
class ApplicationUploads:
    """Where a request with this API key may put its body."""

    use: Resources
    key_id: str
    application_id: str

    async def share(self) -> Share:
        """Return the share of the application in input images that are fetched at once."""
        return await self.use.db.read(limits.upload_share, self.use.limits, self.key_id)

    @asynccontextmanager
    async def place(self, size: int) -> AsyncGenerator[None]:
        """Wait for a place for a body of up to `size` bytes, and hold it for the block.

        Raises LimitExceeded or Overloaded if the application, or all together, have too many and none ends in time, and
        DiskFull.
        """
        if size <= SMALL:
            async with self.use.uploads.place(size):
                yield
            return
        allowed = await self.use.db.read(limits.of_key, self.use.limits, self.key_id)
        share = self.use.uploading.taken(allowed.application_id, allowed.limits.uploads, wait_s=self.use.uploads.wait_s)
        async with share, self.use.uploads.place(size):
            yield

    def open(self) -> IO[bytes]:
        """Open a new file. Raises OSError."""
        return self.use.uploads.open()

    def turn(self) -> AbstractAsyncContextManager[None]:
        """Wait for a turn of the application to work on a body, and keep it for the block."""
        return self.use.working.taken(self.application_id)
