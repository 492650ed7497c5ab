"""The links in answers: their origin, and signed links to images that require no API key."""

import re
from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Path, Query, Request, Response

from app.db.tables import api_keys
from app.db.tables.results import Result
from app.errors import LinkExpired, MalformedRequest, NotFound
from app.images import signed_links
from app.images.examine import extension_of
from app.resources import Policy, Resources
from app.setting_types import names_private_host
from app.web.auth import Caller, ResourcesDep
from app.web.path_ids import TaskId
from app.web.routes.image import SERVED, serve
from app.web.task_response import read_with_result

_FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "via")
_HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?")

# With this as the current time, only the signature of a link is checked: an expired link gets 410, a forged one 404.
_BEFORE_ANY_EXPIRY = datetime.fromtimestamp(0, UTC)

router = APIRouter(tags=["results"])


def origin(request: Request, use: Policy) -> str:
    """Return the URL that the links in an answer begin with, without a slash at the end.

    It is PUBLIC_URL, whatever the Host header says. A private PUBLIC_URL exists only with a twin: then a caller that
    uses a private host gets links to that host, because containers and their host use different names. Without
    PUBLIC_URL it is the origin that the caller used if that is private, else the address at which the request arrived.
    Raises MalformedRequest for an invalid Host header.
    """
    if use.public_url is not None and not _is_private(use.public_url):
        return use.public_url
    used = _used(request)
    return used if _counts(request, used) else use.public_url or _arrived_at(request)


def polling_origin(request: Request, use: Policy) -> str:
    """Return the origin of a `polling_url`: one that the caller used and that is private, else as `origin` says.

    A caller inside the network may be unable to reach the public address, and polls with its API key. A request that a
    proxy passed on counts as one to the public address. Raises MalformedRequest for an invalid Host header.
    """
    used = _used(request)
    return used if _counts(request, used) else origin(request, use)


def _used(request: Request) -> str:
    """Return the origin that the caller names."""
    return f"{request.url.scheme}://{_host(request)}"


def _counts(request: Request, used: str) -> bool:
    """Whether links may lead to the host that the caller names, which is only a claim.

    It must be private, and the caller too: in a private network, and without a proxy.
    """
    is_direct = not any(name in request.headers for name in _FORWARDED)
    return is_direct and _is_private(used) and request.client is not None and names_private_host(request.client.host)


def _arrived_at(request: Request) -> str:
    """Return the origin of the socket that received the request."""
    host, port = request.scope["server"]
    name = f"[{host}]" if ":" in host else host
    return f"{request.url.scheme}://{name}" + (f":{port}" if port else "")


async def result_link(request: Request, use: Resources, caller: Caller, result: Result) -> str:
    """Return a link to this image that requires no API key and expires after the operator's `link_days`."""
    base_url = origin(request, use)
    return await signed_links.public_link(use, result, base_url, caller.key_id) or base_url


@router.get("/results/{task_id}.{suffix}", response_class=Response, responses=SERVED)
@router.head("/results/{task_id}.{suffix}", include_in_schema=False)
async def get_result_image(
    request: Request,
    use: ResourcesDep,
    task_id: TaskId,
    suffix: Annotated[
        str, Path(description="The format of the image: `png`, `jpeg` or `webp`; `bin` if it is none of these.")
    ],
    expires: Annotated[str, Query(description="When the link expires, in seconds since the epoch.")] = "",
    signature: Annotated[str, Query(description="The signature of the link.")] = "",
    key: Annotated[str, Query(max_length=48, description="The id of the API key that the link was made for.")] = "",
) -> Response:
    """Get the image of a signed link, such as `result.sample`. Requires no API key."""
    if not signed_links.check(use.keys, task_id, expires, signature, _BEFORE_ANY_EXPIRY, key):
        raise NotFound("there is no such result")
    if use.now() >= signed_links.expiry(expires):
        raise LinkExpired("the link has expired: get a new one from get_result")
    task, result = await read_with_result(use, task_id, None)
    made_for = await use.db.read(api_keys.get, key or task.key_id)
    if made_for is not None and made_for.links_ended_at is not None:
        raise LinkExpired("the link was ended with the API key that it was made for")
    if result is not None and suffix != extension_of(result.media_type):
        raise NotFound("there is no such result")
    return await serve(request, use, task, result)


def _host(request: Request) -> str:
    host = request.headers.get("host", "")
    try:
        valid = _HOST.fullmatch(host) is not None and urlsplit(f"//{host}").port != 0
    except ValueError:  # an invalid port, or brackets without an IPv6 address
        valid = False
    if not valid:
        raise MalformedRequest("the Host header is not a valid host")
    return host


def _is_private(url: str) -> bool:
    return names_private_host(urlsplit(url).hostname or "")
