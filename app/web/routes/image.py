"""The image of a task, with ranges and ETags: here with an API key, in `results` with a signed link."""

import re
from contextlib import suppress
from datetime import timedelta
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request, Response

from app.db.tables.results import Result
from app.db.tables.tasks import Task
from app.errors import ImageRemoved, NotFound, RangeNotSatisfiable, StoreUnavailable
from app.images.examine import UNKNOWN
from app.resources import Connections
from app.rules.task import Status
from app.store import Missing
from app.web import problems
from app.web.auth import ReaderDep, ResourcesDep
from app.web.path_ids import TaskId
from app.web.schemas.tasks import credentials_of
from app.web.streaming import ClosingResponse
from app.web.task_response import read_with_result

_REDIRECT_LIFE = timedelta(minutes=15)  # a client follows at once
_OF_REDIRECT = frozenset({"content-credentials", "cache-control"})
REMOVED = "the image was removed: its retention has ended"
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])
_BYTES = {
    media_type: {"schema": {"type": "string", "format": "binary"}}
    for media_type in ("image/png", "image/jpeg", "image/webp", UNKNOWN)
}


SERVED: dict[int | str, dict[str, Any]] = {
    HTTPStatus.OK: {
        "description": "The image.",
        "content": _BYTES,
        "headers": {
            "Content-Credentials": {
                "description": "`present` if the image carries a C2PA manifest, else `none`; absent if unknown.",
                "schema": {"type": "string", "enum": ["present", "none"]},
            }
        },
    },
    HTTPStatus.PARTIAL_CONTENT: {"description": "The requested range of the image.", "content": _BYTES},
    HTTPStatus.FOUND: {"description": "The image is in the bucket, with `FLUXHOOK_LINKS=presigned`."},
    HTTPStatus.NOT_MODIFIED: {"description": "The image with this ETag has not changed."},
    **problems.responses(
        HTTPStatus.NOT_FOUND,
        HTTPStatus.GONE,
        HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
        HTTPStatus.SERVICE_UNAVAILABLE,
    ),
}


@router.get(
    "/{task_id}/image",
    response_class=Response,
    responses={**SERVED, **problems.responses(HTTPStatus.UNAUTHORIZED)},
)
@router.head("/{task_id}/image", include_in_schema=False)
async def get_image(request: Request, use: ResourcesDep, caller: ReaderDep, task_id: TaskId) -> Response:
    """Get the stored image. It comes from Fluxhook's own store and does not expire with the provider's link."""
    return await serve(request, use, *await read_with_result(use, task_id, caller.owner))


async def serve(request: Request, use: Connections, task: Task, result: Result | None) -> Response:
    """Return the image of a task as the request's method, range and ETags require.

    Raises NotFound if the task has no image or the store has lost it, ImageRemoved, and Unavailable.
    """
    if result is None:
        state = "failed" if task.status is Status.FAILED else f"is {task.status}"
        raise NotFound(f"there is no image: the task {state}")
    if result.removed_at is not None:
        raise ImageRemoved(REMOVED)
    location = await _elsewhere(request, use, result)
    if location is not None:
        headers = {name: value for name, value in _headers(result).items() if name in _OF_REDIRECT}
        return Response(status_code=HTTPStatus.FOUND, headers={**headers, "location": location})
    try:
        size = await use.store.size(result.store_key)
        if size != result.bytes:
            raise Missing(result.store_key)  # noqa: TRY301 - an incomplete file does not match its ETag
    except Missing as error:
        await use.store.check()  # an unavailable store raises: its images are not lost
        raise NotFound("the image is no longer in the store") from error
    headers = _headers(result)
    if _matches(request.headers.get("if-none-match"), headers["etag"]):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    selected = _range(request, headers["etag"], size)
    if selected is None:
        refusal = problems.answer(RangeNotSatisfiable(f"the image has {size} bytes"))
        refusal.headers["content-range"] = f"bytes */{size}"
        return refusal
    start, end, status = selected
    headers["content-length"] = str(end - start)
    if status is HTTPStatus.PARTIAL_CONTENT:
        headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=result.media_type)
    chunks = use.store.read(result.store_key, start, end)
    return ClosingResponse(chunks, status, headers, result.media_type)


async def _elsewhere(request: Request, use: Connections, result: Result) -> str | None:
    """Return where the bucket serves the image, or None if it is served from here.

    The pages show images of their own origin only, a presigned URL is for GET alone, and a browser must not run what
    could not be verified. If the bucket cannot sign now, the image is served from here.
    """
    if use.presigner is None or request.method != "GET" or result.unverified_image is not None:
        return None
    if request.headers.get("sec-fetch-dest") == "image" or "if-none-match" in request.headers:
        return None
    with suppress(StoreUnavailable):
        return await use.presigner.presign(result.store_key, _REDIRECT_LIFE)
    return None


def _headers(result: Result) -> dict[str, str]:
    extension = result.store_key.rpartition(".")[2]
    # A browser saves an unverified file and does not show it. In no case it guesses another type or runs anything.
    disposition = "inline" if result.unverified_image is None else "attachment"
    credentials = credentials_of(result)
    return {
        **({} if credentials is None else {"content-credentials": credentials}),
        "etag": f'"{result.sha256}"',
        "accept-ranges": "bytes",
        "cache-control": "private, no-cache",
        "content-disposition": f'{disposition}; filename="{result.task_id}.{extension}"',
        "content-security-policy": "default-src 'none'; sandbox",
        "x-content-type-options": "nosniff",
    }


def _matches(if_none_match: str | None, etag: str) -> bool:
    tags = [tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")]
    return etag in tags or "*" in tags


def _range(request: Request, etag: str, size: int) -> tuple[int, int, HTTPStatus] | None:
    """Return start, end (exclusive) and status; None for a range outside of the image.

    Multiple ranges, other units and an `If-Range` that does not match select the whole image, as RFC 9110 allows, and
    so does HEAD, for which RFC 9110 defines no ranges.
    """
    whole = (0, size, HTTPStatus.OK)
    if request.method == "HEAD":
        return whole
    match = _RANGE.fullmatch(request.headers.get("range", "").strip())
    if match is None or request.headers.get("if-range", etag) != etag:
        return whole
    first, last = match[1], match[2]
    if first:
        start, end = int(first), min(int(last) + 1, size) if last else size
    elif last:
        start, end = max(size - int(last), 0), size
    else:
        return whole
    if last and first and int(last) < int(first):
        return whole
    return (start, end, HTTPStatus.PARTIAL_CONTENT) if start < end else None
