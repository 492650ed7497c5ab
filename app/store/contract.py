"""The interface of the image stores."""

import hashlib
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import IO, Protocol, runtime_checkable

MAX_PRESIGNED = timedelta(days=7)  # the longest life that all clouds allow
BUCKETS = frozenset({"s3", "gs", "az"})  # the URL schemes of buckets


def sha256_of(file: IO[bytes]) -> str:
    """Return the SHA-256 of a file in hex."""
    file.seek(0)
    digest = hashlib.sha256()
    while piece := file.read(1024 * 1024):
        digest.update(piece)
    return digest.hexdigest()


class Missing(Exception):
    """The store has no object with this key."""


@runtime_checkable
class Presigner(Protocol):
    """A store that anybody can read from with a URL that it signs."""

    async def presign(self, key: str, life: timedelta) -> str:
        """Return a URL at which GET returns an object for this long, at most `MAX_PRESIGNED`.

        Whether the object exists is not checked. Raises errors.StoreUnavailable.
        """
        ...


class Store(Protocol):
    """A store of image bytes. Keys are relative paths in lower case; one key always names the same bytes.

    Any failure but a missing object is errors.StoreUnavailable, whatever the library below raises.
    """

    async def put(self, key: str, source: IO[bytes]) -> None:
        """Store all of `source` under `key`, durably before it returns. Raises errors.StoreUnavailable."""
        ...

    async def size(self, key: str) -> int:
        """Return the size of an object in bytes. Raises Missing, errors.StoreUnavailable."""
        ...

    def read(self, key: str, start: int, end: int) -> AsyncGenerator[bytes]:
        """Yield the bytes from `start` to `end` (excluded) in chunks. Raises Missing, errors.StoreUnavailable."""
        ...

    async def remove(self, key: str) -> None:
        """Delete an object. Succeeds if it does not exist. Raises errors.StoreUnavailable."""
        ...

    async def check(self) -> None:
        """Check that the store can be written, unless it has just worked. Raises errors.StoreUnavailable."""
        ...
