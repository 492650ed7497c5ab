"""The store in a bucket: S3, Google Cloud Storage or Azure Blob Storage, through obstore.

Credentials come from the variables that each cloud's own tools read (`AWS_...`, `GOOGLE_...`, `AZURE_...`).
"""

from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import IO, TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError
from obstore.store import from_url

from app import ids
from app.errors import ConfigurationError, Unavailable
from app.store.contract import Missing
from app.store.health_cache import BELIEVED_S, RecentSuccess

if TYPE_CHECKING:  # obstore has these for type checkers alone
    from obstore.store import ClientConfig, RetryConfig

_PIECE = 1024 * 1024  # one request each: most images are one or two
_PARTS_AT_ONCE = 2  # of 5 MB, and each is in memory while it is sent; obstore would take 12
# The jobs try again for as long as it takes; one try must not hold a hand for minutes.
_RETRIES: "RetryConfig" = {"max_retries": 2, "retry_timeout": timedelta(seconds=20)}
# Plain http serves only where the operator's own endpoint says so, as for a store in the same network.
_CLIENT: "ClientConfig" = {"connect_timeout": "5s", "timeout": "60s", "user_agent": "fluxhook", "allow_http": True}


class ObjectStore:
    """Everything lies below the prefix that the address names."""

    def __init__(self, url: str, believed_s: float = BELIEVED_S) -> None:
        self._trust = RecentSuccess(believed_s)
        try:
            self._bucket = from_url(url, client_options=_CLIENT, retry_config=_RETRIES)
        except (BaseError, ValueError) as error:
            raise ConfigurationError(
                "FLUXHOOK_STORE_URL: cannot be used; write s3://bucket/prefix (or gs://, az://), and set the variables "
                "that the cloud's own tools read"
            ) from error

    async def put(self, key: str, source: IO[bytes]) -> None:
        source.seek(0)
        with self._failing():
            await obstore.put_async(self._bucket, key, source, max_concurrency=_PARTS_AT_ONCE)
        self._trust.gain()

    async def size(self, key: str) -> int:
        with self._failing(key):
            return (await obstore.head_async(self._bucket, key))["size"]

    async def read(self, key: str, start: int, end: int) -> AsyncGenerator[bytes]:
        """No request is open while a piece is with whoever asked: how slow a reader is bounds nothing."""
        while start < end:
            until = min(start + _PIECE, end)
            with self._failing(key):
                found = await obstore.get_async(self._bucket, key, options={"range": (start, until)})
                piece = bytes(await found.bytes_async())
            yield piece
            if len(piece) < until - start:
                return
            start = until

    async def remove(self, key: str) -> None:
        with suppress(Missing), self._failing(key):
            await obstore.delete_async(self._bucket, key)

    async def check(self) -> None:
        if self._trust:
            return
        key = f"check/{ids.new_key()}"
        with self._failing():
            await obstore.put_async(self._bucket, key, b"fluxhook")
            await obstore.delete_async(self._bucket, key)
        self._trust.gain()

    @contextmanager
    def _failing(self, key: str = "") -> Generator[None]:
        """Obstore's errors as ours. Its messages may quote addresses with signatures: only their kind is passed on."""
        try:
            yield
        except FileNotFoundError as error:
            if key:
                raise Missing(key) from error
            self._trust.lose()
            raise Unavailable("the image store cannot be written: there is no such bucket") from error
        except (BaseError, OSError, ValueError) as error:
            self._trust.lose()
            raise Unavailable(f"the image store does not answer: {type(error).__name__}") from error
