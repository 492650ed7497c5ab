"""The pictures of the pages: thumbnails of results and inputs, and whole input images."""

import asyncio
from collections.abc import Mapping
from functools import partial
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from app.db.tables.results import thumbnail_key
from app.errors import ImageRemoved, NotFound
from app.images import thumbnail
from app.images.download import MAX_PIXELS
from app.images.result_threads import in_result_thread
from app.resources import Connections, Resources
from app.rules.request import StoredImage
from app.store import Missing
from app.web.auth import ResourcesDep
from app.web.pages.access import Visitor, VisitorDep, require_own
from app.web.pages.render import PageRoute
from app.web.path_ids import TaskId
from app.web.routes.image import REMOVED
from app.web.streaming import ClosingResponse
from app.web.task_response import read_with_result

_MAX_BYTES = 64 * 1024 * 1024  # of an image that a thumbnail is made from
# A browser may store them, and asks each time whether the session may still see them.
_HEADERS = {
    "cache-control": "private, no-cache",
    "content-security-policy": "default-src 'none'; sandbox",
    "x-content-type-options": "nosniff",
}
Index = Annotated[int, Path(ge=0, le=99)]

router = APIRouter(prefix="/tasks", route_class=PageRoute)


@router.get("/{task_id}/thumbnail")
async def get_thumbnail(request: Request, use: ResourcesDep, visitor: VisitorDep, task_id: TaskId) -> Response:
    """Return the thumbnail of the result. One that was not stored with its image is made now."""
    _, result = await read_with_result(use, task_id, visitor.caller.owner)
    if result is None or result.unverified_image is not None:
        raise NotFound("the task has no image that can be shown")
    if result.removed_at is not None:
        raise ImageRemoved(REMOVED)
    headers = _tagged(f"{result.sha256}-small")
    if _has_it(request, headers):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    try:
        small = await _read(use, thumbnail_key(result.store_key), thumbnail.MAX_BYTES)
    except Missing:
        small = await _make(use, result.store_key, result.bytes, (result.width or 0) * (result.height or 0))
    return Response(small, headers=headers, media_type=thumbnail.MEDIA_TYPE)


@router.get("/{task_id}/inputs/{index}/thumbnail")
async def get_input_thumbnail(
    request: Request, use: ResourcesDep, visitor: VisitorDep, task_id: TaskId, index: Index
) -> Response:
    """Return the thumbnail of an input image, made now: few tasks are looked at."""
    image = await _input(use, visitor, task_id, index)
    headers = _tagged(f"{image.sha256}-small")
    if _has_it(request, headers):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    small = await _make(use, image.store_key, image.bytes, image.width * image.height)
    return Response(small, headers=headers, media_type=thumbnail.MEDIA_TYPE)


@router.get("/{task_id}/inputs/{index}")
async def get_input(
    request: Request, use: ResourcesDep, visitor: VisitorDep, task_id: TaskId, index: Index
) -> Response:
    """Return an input image as it was sent to the provider."""
    image = await _input(use, visitor, task_id, index)
    headers = _tagged(image.sha256)
    if _has_it(request, headers):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    try:
        await use.store.size(image.store_key)
    except Missing as error:
        raise NotFound("the image is no longer in the store") from error
    chunks = use.store.read(image.store_key, 0, image.bytes)
    headers["content-length"] = str(image.bytes)
    return ClosingResponse(chunks, headers=headers, media_type=image.media_type)


def _tagged(tag: str) -> dict[str, str]:
    """Return the headers of an image whose bytes this tag names."""
    return {**_HEADERS, "etag": f'"{tag}"'}


def _has_it(request: Request, headers: Mapping[str, str]) -> bool:
    """Whether the browser has the image already."""
    return request.headers.get("if-none-match") == headers["etag"]


async def _input(use: Connections, visitor: Visitor, task_id: str, index: int) -> StoredImage:
    task = await require_own(use, visitor, task_id)
    if index >= len(task.request.images):
        raise NotFound("the task has no such input image")
    if task.inputs_removed_at is not None:
        raise ImageRemoved("the input image was removed: its retention has ended")
    return task.request.images[index]


async def _make(use: Resources, store_key: str, size: int, pixels: int) -> bytes:
    """Return a thumbnail of a stored image. Raises NotFound without one, and StoreUnavailable."""
    if size > _MAX_BYTES or not 0 < pixels <= MAX_PIXELS:
        raise NotFound("the image is too large for a thumbnail")
    with use.spool.new_file() as file:
        try:
            async for chunk in use.store.read(store_key, 0, size):
                await asyncio.to_thread(file.write, chunk)
        except Missing as error:
            raise NotFound("the image is no longer in the store") from error
        async with use.decoding.taken(pixels):
            small = await in_result_thread(partial(thumbnail.make, file, max_pixels=MAX_PIXELS))
    if small is None:
        raise NotFound("the image cannot be decoded")
    return small


async def _read(use: Connections, store_key: str, limit: int) -> bytes:
    """Return the first `limit` bytes of a stored object. Raises Missing, StoreUnavailable."""
    return b"".join([chunk async for chunk in use.store.read(store_key, 0, limit)])
