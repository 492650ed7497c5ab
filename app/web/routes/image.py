"""A task's image over HTTP: the whole, a range, or "you have it already"; by key here, by signed link in `links`."""

import re
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from app.db.tables.results import Result
from app.db.tables.tasks import Task
from app.errors import NotFound, RangeNotSatisfiable
from app.resources import Resources
from app.rules.task import Status
from app.store import Missing
from app.web import problems
from app.web.auth import CallerDep, ResourcesDep
from app.web.task_response import TaskId, read_with_result

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])
_BYTES = {
    media_type: {"schema": {"type": "string", "format": "binary"}}
    for media_type in ("image/png", "image/jpeg", "image/webp")
}


SERVED: dict[int | str, dict[str, Any]] = {
    HTTPStatus.OK: {"description": "The image.", "content": _BYTES},
    HTTPStatus.PARTIAL_CONTENT: {"description": "The range that was asked for.", "content": _BYTES},
    HTTPStatus.NOT_MODIFIED: {"description": "The copy with this ETag is still the same."},
    **problems.responses(
        HTTPStatus.NOT_FOUND, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, HTTPStatus.SERVICE_UNAVAILABLE
    ),
}


@router.get(
    "/{task_id}/image",
    response_class=Response,
    responses={**SERVED, **problems.responses(HTTPStatus.UNAUTHORIZED)},
)
@router.head("/{task_id}/image", include_in_schema=False)
async def get_image(request: Request, use: ResourcesDep, _asking: CallerDep, task_id: TaskId) -> Response:
    """The stored image, from our own store: it does not expire with the provider's link."""
    return await serve(request, use, *await read_with_result(use, task_id))


async def serve(request: Request, use: Resources, task: Task, result: Result | None) -> Response:
    """What this request asks for of a task's image. Raises NotFound when there is none, Unavailable."""
    if result is None:
        why = "failed" if task.status is Status.FAILED else f"is {task.status}"
        raise NotFound(f"there is no image: the task {why}")
    try:
        size = await use.store.size(result.store_key)
        if size != result.bytes:
            raise Missing(result.store_key)  # noqa: TRY301 - a part of it is no image, and its ETag would lie
    except Missing as error:
        await use.store.check()  # a store that is not there itself has lost nothing
        raise NotFound("the image is not in the store any more") from error
    headers = _headers(result)
    if _has_it(request.headers.get("if-none-match"), headers["etag"]):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    span = _span(request, headers["etag"], size)
    if span is None:
        refusal = problems.answer(RangeNotSatisfiable(f"the image has {size} bytes"))
        refusal.headers["content-range"] = f"bytes */{size}"
        return refusal
    start, end, status = span
    headers["content-length"] = str(end - start)
    if status is HTTPStatus.PARTIAL_CONTENT:
        headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=result.media_type)
    pieces = use.store.read(result.store_key, start, end)
    return StreamingResponse(pieces, status, headers, result.media_type)


def _headers(result: Result) -> dict[str, str]:
    extension = result.store_key.rpartition(".")[2]
    return {
        "etag": f'"{result.sha256}"',
        "accept-ranges": "bytes",
        "cache-control": "private, max-age=31536000, immutable",
        "content-disposition": f'inline; filename="{result.task_id}.{extension}"',
        "content-security-policy": "default-src 'none'; sandbox",
        "x-content-type-options": "nosniff",
    }


def _has_it(if_none_match: str | None, etag: str) -> bool:
    tags = [tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")]
    return etag in tags or "*" in tags


def _span(request: Request, etag: str, size: int) -> tuple[int, int, HTTPStatus] | None:
    """Start, end (not included) and status; None for a range outside of the image.

    Several ranges at once, other units and a changed `If-Range` get the whole, as RFC 9110 allows; so does HEAD,
    for which it knows no ranges.
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
