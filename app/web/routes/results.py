"""Links that an answer holds: on the origin that the caller used, and to images with a signature in place of a key."""

import re
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Path, Query, Request, Response

from app.db.tables.results import Result
from app.errors import LinkExpired, MalformedRequest, NotFound
from app.images import signed_links
from app.images.inspect import EXTENSIONS
from app.resources import Resources
from app.settings import names_private_host
from app.web.auth import ResourcesDep
from app.web.problems import responses
from app.web.routes.image import SERVED, serve
from app.web.task_response import TaskId, read_with_result

_HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?")

# With this for "now" a link is judged by its signature alone: one that has expired is told so, a forged one is not.
_BEFORE_ANY_END = datetime.fromtimestamp(0, UTC)

router = APIRouter(tags=["results"])


def origin(request: Request, use: Resources) -> str:
    """Where a caller reaches this service, without a slash at the end: what every link in an answer begins with.

    PUBLIC_URL decides, whatever the Host header says. A private one exists only beside a twin; there a caller on a
    private host keeps the one it used, because containers and their host know the service by different names.
    Raises MalformedRequest for a Host header that names no host.
    """
    if use.public_url is not None and not _is_private(use.public_url):
        return use.public_url
    used = f"{request.url.scheme}://{_host(request)}"
    return used if use.public_url is None or _is_private(used) else use.public_url


def result_link(request: Request, use: Resources, result: Result) -> str:
    """An address of this image that needs no key and works until the operator's time for links is over."""
    until = use.now() + use.link_life
    return signed_links.result_link(use.keys, result.task_id, result.media_type, until, origin(request, use))


@router.get("/results/{task_id}.{suffix}", response_class=Response, responses={**SERVED, **responses(HTTPStatus.GONE)})
@router.head("/results/{task_id}.{suffix}", include_in_schema=False)
async def get_result_image(
    request: Request,
    use: ResourcesDep,
    task_id: TaskId,
    suffix: Annotated[str, Path(description="`png`, `jpeg` or `webp`, as the image is.")],
    expires: Annotated[str, Query(description="When the link expires, in seconds since 1970.")] = "",
    signature: Annotated[str, Query(description="Proves that we made this link.")] = "",
) -> Response:
    """The image behind `result.sample`: no key is needed, the link is the proof."""
    if not signed_links.check(use.keys, task_id, expires, signature, _BEFORE_ANY_END):
        raise NotFound("there is no such result")
    if use.now() >= signed_links.expiry(expires):
        raise LinkExpired("the link has expired: ask get_result for a new one")
    task, result = await read_with_result(use, task_id)
    if result is not None and suffix != EXTENSIONS[result.media_type]:
        raise NotFound("there is no such result")
    return await serve(request, use, task, result)


def _host(request: Request) -> str:
    given = request.headers.get("host", "")
    try:
        named = _HOST.fullmatch(given) is not None and urlsplit(f"//{given}").port != 0
    except ValueError:  # a port that is none, or brackets around no address
        named = False
    if not named:
        raise MalformedRequest("the Host header names no host")
    return given


def _is_private(url: str) -> bool:
    return names_private_host(urlsplit(url).hostname or "")
