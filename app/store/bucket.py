"""The store in a bucket: S3, Google Cloud Storage or Azure Blob Storage, through obstore.

Credentials come from the environment variables of each cloud's own tools (`AWS_...`, `GOOGLE_...`, `AZURE_...`).
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

if TYPE_CHECKING:  # these names exist for type checkers only
    from obstore.store import ClientConfig, RetryConfig

_CHUNK = 1024 * 1024  # bytes of one request; most images need one or two
_PARTS_AT_ONCE = 2  # of 5 MB, each in memory while it is sent; the default of obstore is 12
# Few retries: jobs retry by themselves, and one attempt must not occupy a lane for minutes.
_RETRIES: "RetryConfig" = {"max_retries": 2, "retry_timeout": timedelta(seconds=20)}
# Plain http is used only if the configured endpoint has it, as for a store in the same network.
_CLIENT: "ClientConfig" = {"connect_timeout": "5s", "timeout": "60s", "user_agent": "fluxhook", "allow_http": True}


class ObjectStore:
    """The store in a bucket. All keys are below the prefix of the URL."""

    def __init__(self, url: str, believed_s: float = BELIEVED_S) -> None:
        self._recent_success = RecentSuccess(believed_s)
        try:
            self._bucket = from_url(url, client_options=_CLIENT, retry_config=_RETRIES)
        except (BaseError, ValueError) as error:
            raise ConfigurationError(
                "FLUXHOOK_STORE_URL: cannot be used; write s3://bucket/prefix (or gs://, az://), and set the variables "
                "that the cloud's own tools read"
            ) from error

    async def put(self, key: str, source: IO[bytes]) -> None:
        source.seek(0)
        with self._translating_errors():
            await obstore.put_async(self._bucket, key, source, max_concurrency=_PARTS_AT_ONCE)
        self._recent_success.gain()

    async def size(self, key: str) -> int:
        with self._translating_errors(key):
            return (await obstore.head_async(self._bucket, key))["size"]

    async def read(self, key: str, start: int, end: int) -> AsyncGenerator[bytes]:
        """One request for each chunk: while a slow caller processes a chunk, no request is open that could time out."""
        while start < end:
            until = min(start + _CHUNK, end)
            with self._translating_errors(key):
                response = await obstore.get_async(self._bucket, key, options={"range": (start, until)})
                chunk = bytes(await response.bytes_async())
            yield chunk
            if len(chunk) < until - start:
                return
            start = until

    async def remove(self, key: str) -> None:
        with suppress(Missing), self._translating_errors(key):
            await obstore.delete_async(self._bucket, key)

    async def check(self) -> None:
        if self._recent_success:
            return
        key = f"check/{ids.new_key()}"
        with self._translating_errors():
            await obstore.put_async(self._bucket, key, b"fluxhook")
            await obstore.delete_async(self._bucket, key)
        self._recent_success.gain()

    @contextmanager
    def _translating_errors(self, key: str = "") -> Generator[None]:
        """Translate obstore's errors. Only their type is passed on, because messages may quote URLs with signatures."""
        try:
            yield
        except FileNotFoundError as error:
            if key:
                raise Missing(key) from error
            self._recent_success.lose()
            raise Unavailable("the image store cannot be written: there is no such bucket") from error
        except (BaseError, OSError, ValueError) as error:
            self._recent_success.lose()
            raise Unavailable(f"the image store does not answer: {type(error).__name__}") from error
