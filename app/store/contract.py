"""What every store promises."""

import hashlib
from collections.abc import AsyncGenerator
from typing import IO, Protocol

BUCKETS = frozenset({"s3", "gs", "az"})  # the schemes of addresses


def sha256_of(file: IO[bytes]) -> str:
    """The digest that names these bytes, in hex."""
    file.seek(0)
    digest = hashlib.sha256()
    while piece := file.read(1024 * 1024):
        digest.update(piece)
    return digest.hexdigest()


class Missing(Exception):
    """There is nothing under this key."""


class Store(Protocol):
    """Keys are relative paths of lower-case names; the same key always means the same bytes."""

    async def put(self, key: str, source: IO[bytes]) -> None:
        """Keep all of `source` under `key`; durable when this returns. Raises errors.Unavailable."""
        ...

    async def size(self, key: str) -> int:
        """How many bytes are kept under `key`. Raises Missing."""
        ...

    def read(self, key: str, start: int, end: int) -> AsyncGenerator[bytes]:
        """The bytes from `start` up to `end` (not included), in pieces. Raises Missing."""
        ...

    async def remove(self, key: str) -> None:
        """Keep nothing under `key` any more, if anything was. Raises errors.Unavailable."""
        ...

    async def check(self) -> None:
        """Write, read and remove a small object, unless the store has just worked. Raises errors.Unavailable."""
        ...
