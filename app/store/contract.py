"""The interface of the image stores."""

import hashlib
from collections.abc import AsyncGenerator
from typing import IO, Protocol

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
