"""Accept a task: check it, keep its images, and record task, attempt and job in one transaction.

Nothing is sent from here, and nothing is recorded of a task that is refused.
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

_FETCH_S = 60  # for one image in all: a host that sends a byte now and then holds a request no longer
_SMALL_SIDE = 256
_EDIT_TOLERANCE = 2


@dataclass(frozen=True, slots=True)
class KeptImage:
    """An input image as the task remembers it: a reference, and what its header said."""

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
    also: Callable[[Connection, str], None] = lambda _connection, _task_id: None,
    origin: str | None = None,
) -> str:
    """Record a task for dispatch and return its id.

    `files` holds uploaded images by field, in place of a text in `params`; `also` joins the transaction, with the
    task's id; `origin` is where the submitter reached us, for links where no public address is configured. Raises
    InvalidRequest or TooLarge naming the field at fault, Unavailable when no provider is configured or the store
    cannot be written.
    """
    if use.provider is None:
        raise Unavailable("no provider key is configured: the operator has to set one")
    if params.deadline_at is not None and params.deadline_at <= use.now():
        raise InvalidRequest("deadline_at: is in the past", {"deadline_at": "is in the past"})
    spec = use.provider.spec
    subscription.check(use, params)
    kept = [await _keep(use, spec, field, given) for field, given in _in_order(params, files).items()]
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
            request=_request(params, kept),
            warnings=_warnings(params, kept),
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
        also(connection, task_id)

    await use.db.write(record)
    logs.note(task_id=task_id, submission_id=submission_id)
    return task_id


def _in_order(params: Params, files: Mapping[str, IO[bytes]]) -> dict[str, str | IO[bytes]]:
    given: dict[str, str | IO[bytes]] = {**params.images(), **files}
    expected = IMAGE_FIELDS[: len(given)]
    for field in expected:
        if field not in given:
            reason = "missing: images are numbered without a gap"
            raise InvalidRequest(f"{field}: {reason}", {field: reason})
    return {field: given[field] for field in expected}


async def _keep(use: Resources, spec: ProviderSpec, field: str, given: str | IO[bytes]) -> KeptImage:
    """Keep an image given as a file, as base64, or as an address to fetch it from."""
    if not isinstance(given, str):
        return await _check_and_put(use, spec, field, given)
    try:
        with await asyncio.to_thread(_blank, use) as file:
            if given[:8].lower().startswith(("http://", "https://")):
                await _fetch(use, spec, field, given, file)
            else:
                await asyncio.to_thread(_decode_into, file, field, given)
            return await _check_and_put(use, spec, field, file)
    except OSError as error:
        raise Unavailable(f"an image cannot be kept: {error.strerror}") from error


def _blank(use: Resources) -> IO[bytes]:
    return TemporaryFile(dir=use.scratch)


def _decode_into(file: IO[bytes], field: str, text: str) -> None:
    image = Inline(field, file)
    image.feed(text)
    image.end()


async def _fetch(use: Resources, spec: ProviderSpec, field: str, url: str, file: IO[bytes]) -> None:
    """Download an image that the application named. The error says no more of a blocked host than of a dead one."""
    try:
        async with asyncio.timeout(_FETCH_S), use.web.stream("GET", url) as response:
            if response.status_code != HTTPStatus.OK:
                raise _unfetched(field, f"its address answered with HTTP {response.status_code}")
            async for piece in response.aiter_raw():
                file.write(piece)
                _bound_size(spec, field, file.tell())
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError, TimeoutError) as error:  # Unicode: a broken `xn--` name
        raise _unfetched(field, "its address cannot be reached") from error


def _unfetched(field: str, reason: str) -> InvalidRequest:
    return InvalidRequest(f"{field}: {reason}", {field: reason})


def _bound_size(spec: ProviderSpec, field: str, size: int) -> None:
    if size > spec.max_image_bytes:
        limit = spec.max_image_bytes // 1024**2
        raise TooLarge(f"{field}: an image may have {limit} MB", {field: f"more than {limit} MB"})


async def _check_and_put(use: Resources, spec: ProviderSpec, field: str, file: IO[bytes]) -> KeptImage:
    size = file.seek(0, 2)
    _bound_size(spec, field, size)
    try:
        info, sha256 = await asyncio.to_thread(_look_at, file)
    except NotAnImage as error:
        raise InvalidRequest(f"{field}: {error}", {field: str(error)}) from error
    if info.pixels > spec.max_image_pixels:
        reason = f"{info.width}x{info.height} is more than {spec.max_image_pixels // 10**6} megapixels"
        raise InvalidRequest(f"{field}: {reason}", {field: reason})
    # One for each task, though others may have given the same image: so it can be erased with this one.
    key = f"inputs/{sha256[:2]}/{sha256}.{ids.new_id('img', use.now())}.{inspect.EXTENSIONS[info.media_type]}"
    with tracing.span("store put", bytes=size):
        await use.store.put(key, file)
    return KeptImage(field, key, sha256, size, info.media_type, info.width, info.height)


def _look_at(file: IO[bytes]) -> tuple[ImageInfo, str]:
    return inspect.inspect(file), sha256_of(file)


def _request(params: Params, kept: list[KeptImage]) -> dict[str, Any]:
    """What the task remembers of its request: every parameter, and references in place of images."""
    asked = params.model_dump(exclude={"model", *IMAGE_FIELDS, *OPTIONS})
    return {**asked, "images": [asdict(image) for image in kept]}


def _warnings(params: Params, kept: list[KeptImage]) -> list[str]:
    """What the sources disagree about: allowed here, said aloud, left to the provider."""
    found = []
    if kept and params.safety_tolerance > _EDIT_TOLERANCE:
        found.append("safety_tolerance above 2 with an input image: BFL's editing guide allows 0 to 2")
    found += [
        f"{image.field} is {image.width}x{image.height}: BFL's own client wants sides of at least {_SMALL_SIDE}"
        for image in kept
        if min(image.width, image.height) < _SMALL_SIDE
    ]
    return found
