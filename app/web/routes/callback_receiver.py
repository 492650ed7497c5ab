"""The route for callbacks of the provider. It requires no API key: the address holds a token, the body a proof.

Most callbacks take the fast path in `protocol`, which uses the answers of this module.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from http import HTTPStatus
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from app import callback
from app.callback import MAX_BYTES, Reply, count_reply
from app.errors import FluxhookError, NotFound, TooLarge, Unavailable
from app.telemetry import logs
from app.web import problems
from app.web.auth import ResourcesDep
from app.web.request_log import Receive
from app.web.safe_headers import SAFE
from app.web.schemas.problems import ProviderError

ROUTE = "/callbacks/{submission_id}/{token}"

router = APIRouter(tags=["callbacks"])


class Kept(BaseModel):
    status: Literal["success"]


class Forged(BaseModel):
    """The provider's own error envelope, which its clients expect."""

    error: ProviderError


_FORGED = {"error": {"message": "Invalid signature", "type": "401"}}
_REFUSALS: Mapping[Reply, FluxhookError] = {
    Reply.TOO_LARGE: TooLarge(f"a callback must not exceed {MAX_BYTES // 1024} KiB"),
    Reply.UNKNOWN: NotFound("there is no such callback address"),
}


@router.post(
    ROUTE,
    openapi_extra={"requestBody": {"content": {"application/json": {"schema": {"type": "object"}}}}},
    responses={
        HTTPStatus.OK: {"model": Kept, "description": "The callback and its effect are stored durably."},
        HTTPStatus.UNAUTHORIZED: {"model": Forged, "description": "The callback has an invalid signature."},
        **problems.responses(HTTPStatus.NOT_FOUND, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.SERVICE_UNAVAILABLE),
    },
)
async def post_callback(
    attempt_id: Annotated[str, Path(alias="submission_id", description="The id of the attempt.")],
    token: Annotated[str, Path(description="The token of the callback address.")],
    request: Request,
    use: ResourcesDep,
) -> Response:
    """Receive a callback of the provider about one attempt.

    200 means that the callback and its effect are stored durably. After 503, the provider should send it again.
    """
    headers = request.scope["headers"]
    try:
        if (content_length(headers) or 0) > MAX_BYTES:
            return answer(count_reply(Reply.TOO_LARGE))
        return answer(await callback.receive(use, attempt_id, token, headers, partial(_read, request.receive)))
    except Exception as error:  # noqa: BLE001 - after any error the provider must retry
        return error_answer(error)


def answer(reply: Reply) -> Response:
    """Return the prebuilt answer of a reply: a forger may send thousands of callbacks a second."""
    if reply in _REFUSALS:
        logs.note(code=_REFUSALS[reply].code)
    return _ANSWERS[reply]


def error_answer(error: Exception) -> Response:
    """Return the answer to a callback that could not be stored."""
    if isinstance(error, FluxhookError):
        return _safe(problems.answer(error))
    if isinstance(error, ClientDisconnect):
        return problems.disconnected()
    return _safe(problems.unexpected(error, "POST", Unavailable("the callback could not be stored")))


def _safe(response: Response) -> Response:
    """Add the headers that `SafeHeaders` adds elsewhere: the fast path has no middleware."""
    response.headers.update(SAFE)
    return response


def content_length(headers: Sequence[tuple[bytes, bytes]]) -> int | None:
    """Return the Content-Length in bytes, or None without a valid one. A number is cut after 20 digits."""
    for name, value in headers:
        if name == b"content-length" and value.isdigit():
            return int(value.lstrip(b"0")[:20] or b"0")
    return None


async def _read(receive: Receive, max_bytes: int) -> bytes | None:
    """Return the body, or None as soon as it exceeds `max_bytes`. Raises ClientDisconnect if it is incomplete."""
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        more = message.get("more_body", False)
        body += message.get("body", b"")
        if len(body) > max_bytes:
            return None
    return bytes(body)


def _answer(reply: Reply) -> Response:
    match reply:
        case Reply.ACCEPTED:
            return JSONResponse({"status": "success"})
        case Reply.FORGED:
            return JSONResponse(_FORGED, HTTPStatus.UNAUTHORIZED)
        case Reply.TOO_LARGE | Reply.UNKNOWN:
            return problems.answer(_REFUSALS[reply])


_ANSWERS = {reply: _safe(_answer(reply)) for reply in Reply}
