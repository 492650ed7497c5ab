"""The route that providers call. It needs no key: the address holds a token, the body proves itself.

Most callbacks never come here: `protocol` has a shorter way for them, with the answers of this module.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from http import HTTPStatus
from typing import Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from app import callback
from app.callback import MAX_BYTES, Reply, tell
from app.errors import FluxhookError, NotFound, TooLarge, Unavailable
from app.telemetry import logs
from app.web import problems
from app.web.auth import ResourcesDep
from app.web.request_log import Receive

ROUTE = "/callbacks/{submission_id}/{token}"

router = APIRouter(tags=["callbacks"])


class Kept(BaseModel):
    status: Literal["success"]


class Forged(BaseModel):
    """The provider's own envelope, to the letter: what its client code knows."""

    error: problems.ProviderError


_FORGED = {"error": {"message": "Invalid signature", "type": "401"}}
_REFUSALS: Mapping[Reply, FluxhookError] = {
    Reply.TOO_LARGE: TooLarge(f"a callback may have {MAX_BYTES // 1024} KiB"),
    Reply.UNKNOWN: NotFound("there is no such callback address"),
}


@router.post(
    ROUTE,
    openapi_extra={"requestBody": {"content": {"application/json": {"schema": {"type": "object"}}}}},
    responses={
        HTTPStatus.OK: {"model": Kept, "description": "Kept, and its effect is durable."},
        HTTPStatus.UNAUTHORIZED: {"model": Forged, "description": "A signature is there, and it is wrong."},
        **problems.responses(HTTPStatus.NOT_FOUND, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.SERVICE_UNAVAILABLE),
    },
)
async def post_callback(submission_id: str, token: str, request: Request, use: ResourcesDep) -> Response:
    """What the provider has to say of one attempt. 200 means kept for good; on 503 it should call again."""
    headers = request.scope["headers"]
    try:
        if (announced(headers) or 0) > MAX_BYTES:
            return answer(tell(Reply.TOO_LARGE))
        return answer(await callback.receive(use, submission_id, token, headers, partial(_read, request.receive)))
    except Exception as error:  # noqa: BLE001 - whatever it was, the provider is to call again
        return refused(error)


def answer(reply: Reply) -> Response:
    """The answer that says so, made beforehand: a forger may ask for thousands a second."""
    if reply in _REFUSALS:
        logs.note(code=_REFUSALS[reply].code)
    return _ANSWERS[reply]


def refused(error: Exception) -> Response:
    """The answer to a callback that could not be kept."""
    if isinstance(error, FluxhookError):
        return problems.answer(error)
    if isinstance(error, ClientDisconnect):
        return problems.gone()
    return problems.unexpected(error, "POST", Unavailable("this callback could not be kept"))


def announced(headers: Sequence[tuple[bytes, bytes]]) -> int | None:
    """How many bytes of body are to come, where that is said; of a number past all bounds only that it is large."""
    for name, value in headers:
        if name == b"content-length" and value.isdigit():
            return int(value.lstrip(b"0")[:20] or b"0")
    return None


async def _read(receive: Receive, most: int) -> bytes | None:
    """The body; None as soon as it is larger than that. Raises ClientDisconnect when it ends before its end."""
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        more = message.get("more_body", False)
        body += message.get("body", b"")
        if len(body) > most:
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


_ANSWERS = {reply: _answer(reply) for reply in Reply}
