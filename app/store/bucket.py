"""The store in a bucket: S3, Google Cloud Storage or Azure Blob Storage, through obstore.

Credentials come from the environment variables of each cloud's own tools (`AWS_...`, `GOOGLE_...`, `AZURE_...`).
"""

import asyncio
import os
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from typing import IO, TYPE_CHECKING, cast
from urllib.parse import urlsplit

import obstore
from obstore.store import from_url

from app import ids
from app.errors import ConfigurationError, StoreUnavailable
from app.store.contract import MAX_PRESIGNED, Missing
from app.store.health_cache import SUCCESS_LASTS_S, RecentSuccess

if TYPE_CHECKING:  # these names exist for type checkers only
    from obstore import Attributes, SignCapableStore
    from obstore.store import ClientConfig, RetryConfig

_CHUNK = 1024 * 1024  # bytes of one request; most images need one or two
_PARTS_AT_ONCE = 2  # of 5 MB, each in memory while it is sent; the default of obstore is 12
# Few retries: jobs retry by themselves, and one attempt must not occupy a lane for minutes.
_RETRIES: "RetryConfig" = {"max_retries": 2, "retry_timeout": timedelta(seconds=20)}
# Plain http is used only if the configured endpoint has it, as for a store in the same network.
# A request without an answer ends after `timeout`. The limits below bound a whole call, with its retries and with what
# comes before its request: the look-up of the name, and credentials from a server of the cloud.
_CLIENT: "ClientConfig" = {"connect_timeout": "5s", "timeout": "60s", "user_agent": "fluxhook", "allow_http": True}

_CALL_S = 90.0
_CHECK_S = 15.0  # `/readyz` waits for it
_SLOWEST_UPLOAD = 256 * 1024  # bytes a second, which a large image may take longer

_MEDIA_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}

# The class of panics in synchronous calls of obstore. It derives from BaseException, and no module exports it.
_PANIC = "PanicException"
# The variables that obstore takes unchecked into URLs and headers. An invalid value makes it panic at each request.
_ENDPOINTS = {
    "s3": (
        *("AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL_STS"),
        *("AWS_METADATA_ENDPOINT", "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
    ),
    "gs": ("GOOGLE_BASE_URL",),
    "az": (
        *("AZURE_ENDPOINT", "AZURE_STORAGE_ENDPOINT", "AZURE_MSI_ENDPOINT", "AZURE_IDENTITY_ENDPOINT"),
        *("AZURE_AUTHORITY_HOST", "AZURE_STORAGE_AUTHORITY_HOST"),
    ),
}
_PLAIN = {
    "s3": (
        *("AWS_REGION", "AWS_DEFAULT_REGION"),
        *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_TOKEN"),
    ),
    "gs": ("GOOGLE_BEARER_TOKEN",),
    "az": ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY"),
}


class ObjectStore:
    """The store in a bucket. All keys are below the prefix of the URL.

    Raises ConfigurationError for a URL or an environment variable of the cloud that cannot be used.
    """

    def __init__(
        self,
        url: str,
        success_lasts_s: float = SUCCESS_LASTS_S,
        call_s: float = _CALL_S,
        check_s: float = _CHECK_S,
    ) -> None:
        self._recent_success = RecentSuccess(success_lasts_s)
        self._call_s, self._check_s = call_s, check_s
        _require_usable_variables(url.partition(":")[0])
        try:
            self._bucket = from_url(url, client_options=_CLIENT, retry_config=_RETRIES)
        except Exception as error:
            raise ConfigurationError(
                "FLUXHOOK_STORE_URL: cannot be used; write s3://bucket/prefix (or gs://, az://), and set the variables "
                "that the cloud's own tools read"
            ) from error

    async def put(self, key: str, source: IO[bytes]) -> None:
        limit_s = self._call_s + source.seek(0, os.SEEK_END) / _SLOWEST_UPLOAD
        source.seek(0)
        async with self._call(limit_s=limit_s):
            await obstore.put_async(
                self._bucket, key, source, attributes=_attributes(key), max_concurrency=_PARTS_AT_ONCE
            )
        self._recent_success.record_success()

    async def size(self, key: str) -> int:
        async with self._call(key):
            return (await obstore.head_async(self._bucket, key))["size"]

    async def read(self, key: str, start: int, end: int) -> AsyncGenerator[bytes]:
        """One request for each chunk: while a slow caller processes a chunk, no request is open that could time out."""
        while start < end:
            until = min(start + _CHUNK, end)
            async with self._call(key):
                response = await obstore.get_async(self._bucket, key, options={"range": (start, until)})
                chunk = bytes(await response.bytes_async())
            yield chunk
            if len(chunk) < until - start:
                return
            start = until

    async def presign(self, key: str, life: timedelta) -> str:
        bucket = cast("SignCapableStore", self._bucket)  # those of clouds are
        async with self._call():
            return await obstore.sign_async(bucket, "GET", key, min(life, MAX_PRESIGNED))

    async def remove(self, key: str) -> None:
        with suppress(Missing):
            async with self._call(key):
                await obstore.delete_async(self._bucket, key)

    async def check(self) -> None:
        if self._recent_success:
            return
        key = f"check/{ids.new_key()}"
        async with self._call(limit_s=self._check_s):
            await obstore.put_async(self._bucket, key, b"fluxhook")
            await obstore.delete_async(self._bucket, key)
        self._recent_success.record_success()

    @asynccontextmanager
    async def _call(self, key: str = "", limit_s: float | None = None) -> AsyncGenerator[None]:
        """Call the bucket in the block, with a time limit. Raises Missing for a key, errors.StoreUnavailable."""
        with self._translating_errors(key):
            async with asyncio.timeout(self._call_s if limit_s is None else limit_s):
                yield

    @contextmanager
    def _translating_errors(self, key: str = "") -> Generator[None]:
        """Translate whatever obstore raises. Only its type is passed on: messages may quote URLs with signatures."""
        try:
            yield
        except FileNotFoundError as error:
            if key:
                raise Missing(key) from error
            raise self._lost("the image store cannot be written: there is no such bucket") from error
        except Exception as error:
            raise self._lost(f"the image store does not answer: {type(error).__name__}") from error
        except BaseException as error:
            if type(error).__name__ != _PANIC:
                raise
            raise self._lost(f"the image store does not answer: {_PANIC}") from error

    def _lost(self, detail: str) -> StoreUnavailable:
        self._recent_success.record_failure()
        return StoreUnavailable(detail)


def _attributes(key: str) -> "Attributes":
    """Return what the bucket states of an object to those who read it by a presigned URL."""
    media_type = _MEDIA_TYPES.get(key.rpartition(".")[2], "application/octet-stream")
    return {"Content-Type": media_type, "Cache-Control": "private, max-age=31536000, immutable"}


def _require_usable_variables(scheme: str) -> None:
    for name in _ENDPOINTS.get(scheme, ()):
        if name in os.environ and not _is_http_url(os.environ[name]):
            raise ConfigurationError(f"{name}: must be an http(s) URL such as https://storage.example.com, or not set")
    for name in _PLAIN.get(scheme, ()):
        if not _is_printable_word(os.environ.get(name, "")):
            raise ConfigurationError(f"{name}: must not contain spaces, line breaks or characters outside ASCII")


def _is_http_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return bool(parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0) and (
            _is_printable_word(text)
        )
    except ValueError:  # an invalid port, or brackets without an IPv6 address
        return False


def _is_printable_word(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text
