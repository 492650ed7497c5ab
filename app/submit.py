"""Accept a task: validate it, store its input images, and record task, attempt and job in one transaction.

Nothing is sent to the provider here, and a refused task leaves no row.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from http import HTTPStatus
from tempfile import TemporaryFile
from typing import IO, Any

import httpx

from app import ids
from app.db import Connection
from app.db.tables import attempts, tasks
from app.errors import InvalidRequest, TooLarge, Unavailable
from app.images import inspect
from app.images.base64 import Inline
from app.images.inspect import ImageInfo, NotAnImage
from app.params import IMAGE_FIELDS, OPTIONS, Params, TaskParams
from app.provider import ProviderSpec
from app.resources import Resources
from app.rules.task import Status
from app.store import sha256_of
from app.telemetry import logs, tracing
from app.transitions.admit import admit
from app.transitions.announce import Announcement, announce
from app.webhooks import subscription

_FETCH_S = 60  # for a whole image, so that a slow host cannot keep a request open
_MIN_SIDE = 256  # pixels
_MAX_EDIT_TOLERANCE = 2


@dataclass(frozen=True, slots=True)
class StoredImage:
    """A stored input image as recorded with the task: a reference to its bytes, and the facts from its header."""

    field: str
    store_key: str
    sha256: str
    bytes: int
    media_type: str
    width: int
    height: int


async def submit(
    use: Resources,
    key_id: str,
    params: TaskParams,
    files: Mapping[str, IO[bytes]],
    on_record: Callable[[Connection, str], None] = lambda _connection, _task_id: None,
    origin: str | None = None,
) -> str:
    """Record a task for dispatch and return its id.

    `files`: uploaded images by field name; they replace the strings in `params`.
    `on_record`: called with the connection and the task's id inside the transaction that records the task.
    `origin`: the origin at which the client reached this service, for links if no public URL is configured.

    Raises InvalidRequest or TooLarge, which name the invalid field, and Unavailable if no provider key is configured or
    an image cannot be stored.
    """
    if use.provider is None:
        raise Unavailable("no provider key is configured: the operator has to set one")
    if params.deadline_at is not None and params.deadline_at <= use.now():
        raise InvalidRequest("deadline_at: is in the past", {"deadline_at": "is in the past"})
    spec = use.provider.spec
    subscription.check(use, params)
    images = [await _store_input(use, spec, field, source) for field, source in _in_order(params, files).items()]
    now = use.now()
    task_id, submission_id = ids.new_id("task", now), ids.new_id("sub", now)
    traceparent = tracing.traceparent()

    def record(connection: Connection) -> None:
        tasks.insert(
            connection,
            id=task_id,
            key_id=key_id,
            provider=spec.name,
            account_id=use.account_id,
            model=params.model,
            status=Status.QUEUED,
            request=_request(params, images),
            warnings=_warnings(params, images),
            priority=params.priority,
            deadline_at=params.deadline_at,
            dispatch_after_at=now,
            submission_id=submission_id,
            created_at=now,
            traceparent=traceparent,
            **subscription.columns(connection, use.keys, task_id, key_id, params, origin),
        )
        attempts.plan(
            connection,
            id=submission_id,
            task_id=task_id,
            number=1,
            provider=spec.name,
            signing_key_id=use.keys.newest,
            planned_at=now,
        )
        announce(connection, [Announcement(task_id, Status.QUEUED)], now)
        admit(connection, use.account_id, now)
        on_record(connection, task_id)

    await use.db.write(record)
    logs.note(task_id=task_id, submission_id=submission_id)
    return task_id


def _in_order(params: Params, files: Mapping[str, IO[bytes]]) -> dict[str, str | IO[bytes]]:
    """Return the sources of the input images in the order of their fields. Raises InvalidRequest for a gap."""
    sources: dict[str, str | IO[bytes]] = {**params.images(), **files}
    expected = IMAGE_FIELDS[: len(sources)]
    for field in expected:
        if field not in sources:
            reason = "missing: images are numbered without a gap"
            raise InvalidRequest(f"{field}: {reason}", {field: reason})
    return {field: sources[field] for field in expected}


async def _store_input(use: Resources, spec: ProviderSpec, field: str, source: str | IO[bytes]) -> StoredImage:
    """Store an image from an uploaded file, a base64 string or a URL."""
    if not isinstance(source, str):
        return await _check_and_put(use, spec, field, source)
    try:
        with await asyncio.to_thread(_temporary_file, use) as file:
            if source[:8].lower().startswith(("http://", "https://")):
                await _fetch(use, spec, field, source, file)
            else:
                await asyncio.to_thread(_decode_into, file, field, source)
            return await _check_and_put(use, spec, field, file)
    except OSError as error:
        raise Unavailable(f"an image cannot be stored: {error.strerror}") from error


def _temporary_file(use: Resources) -> IO[bytes]:
    return TemporaryFile(dir=use.scratch)


def _decode_into(file: IO[bytes], field: str, text: str) -> None:
    image = Inline(field, file)
    image.feed(text)
    image.end()


async def _fetch(use: Resources, spec: ProviderSpec, field: str, url: str, file: IO[bytes]) -> None:
    """Download an image from a client's URL. The error is the same for a blocked host as for an unreachable one."""
    try:
        async with asyncio.timeout(_FETCH_S), use.web.stream("GET", url) as response:
            if response.status_code != HTTPStatus.OK:
                raise _fetch_failed(field, f"its URL answered with HTTP {response.status_code}")
            async for piece in response.aiter_raw():
                file.write(piece)
                _check_size(spec, field, file.tell())
    except (
        httpx.HTTPError,
        httpx.InvalidURL,
        UnicodeError,
        TimeoutError,
    ) as error:  # Unicode: a bad `xn--` name
        raise _fetch_failed(field, "its URL cannot be reached") from error


def _fetch_failed(field: str, reason: str) -> InvalidRequest:
    return InvalidRequest(f"{field}: {reason}", {field: reason})


def _check_size(spec: ProviderSpec, field: str, size: int) -> None:
    if size > spec.max_image_bytes:
        limit = spec.max_image_bytes // 1024**2
        raise TooLarge(f"{field}: an image may have at most {limit} MB", {field: f"more than {limit} MB"})


async def _check_and_put(use: Resources, spec: ProviderSpec, field: str, file: IO[bytes]) -> StoredImage:
    size = file.seek(0, 2)
    _check_size(spec, field, size)
    try:
        info, sha256 = await asyncio.to_thread(_inspect, file)
    except NotAnImage as error:
        raise InvalidRequest(f"{field}: {error}", {field: str(error)}) from error
    if info.pixels > spec.max_image_pixels:
        reason = f"{info.width}x{info.height} is more than {spec.max_image_pixels // 10**6} megapixels"
        raise InvalidRequest(f"{field}: {reason}", {field: reason})
    # The key is unique to the task, even if other tasks have the same image, so that it can be erased with the task.
    key = f"inputs/{sha256[:2]}/{sha256}.{ids.new_id('img', use.now())}.{inspect.EXTENSIONS[info.media_type]}"
    with tracing.span("store put", bytes=size):
        await use.store.put(key, file)
    return StoredImage(field, key, sha256, size, info.media_type, info.width, info.height)


def _inspect(file: IO[bytes]) -> tuple[ImageInfo, str]:
    return inspect.inspect(file), sha256_of(file)


def _request(params: Params, images: list[StoredImage]) -> dict[str, Any]:
    """Return the request as recorded with the task: the parameters, and references in place of images."""
    parameters = params.model_dump(exclude={"model", *IMAGE_FIELDS, *OPTIONS})
    return {**parameters, "images": [asdict(image) for image in images]}


def _warnings(params: Params, images: list[StoredImage]) -> list[str]:
    """Return warnings about values on which the provider's documents disagree. The provider decides about them."""
    warnings = []
    if images and params.safety_tolerance > _MAX_EDIT_TOLERANCE:
        warnings.append("safety_tolerance above 2 with an input image: BFL's editing guide allows 0 to 2")
    warnings += [
        f"{image.field} is {image.width}x{image.height}: BFL's own client requires sides of at least {_MIN_SIDE}"
        for image in images
        if min(image.width, image.height) < _MIN_SIDE
    ]
    return warnings
