"""The route that providers call. It needs no key: the address holds a token, the body proves itself."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from typing import Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from app import callback, logs, tracing
from app.callback import MAX_BYTES, Reply, tell
from app.errors import FluxhookError, NotFound, TooLarge, Unavailable
from app.resources import Resources
from app.web import problems, request_log
from app.web.access import Use
from app.web.request_log import Asgi, Message, Receive, Send

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
    "/callbacks/{submission_id}/{token}",
    openapi_extra={"requestBody": {"content": {"application/json": {"schema": {"type": "object"}}}}},
    responses={
        HTTPStatus.OK: {"model": Kept, "description": "Kept, and its effect is durable."},
        HTTPStatus.UNAUTHORIZED: {"model": Forged, "description": "A signature is there, and it is wrong."},
        **problems.responses(HTTPStatus.NOT_FOUND, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.SERVICE_UNAVAILABLE),
    },
)
async def post_callback(submission_id: str, token: str, request: Request, use: Use) -> Response:
    """What the provider has to say of one attempt. 200 means kept for good; on 503 it should call again."""
    reply = await _reply(use, submission_id, token, request.scope["headers"], request.receive)
    return _answer(reply) if isinstance(reply, Reply) else reply


async def _reply(
    use: Resources, submission_id: str, token: str, headers: Sequence[tuple[bytes, bytes]], receive: Receive
) -> Reply | Response:
    """What one callback is answered with; a Response where it cannot be known beforehand."""
    try:
        if _announces_too_much(headers):
            reply = tell(Reply.TOO_LARGE)
        else:
            reply = await callback.receive(use, submission_id, token, headers, partial(_read, receive))
    except FluxhookError as error:
        return problems.answer(error)
    except ClientDisconnect:
        return problems.gone()
    except Exception as error:  # noqa: BLE001 - whatever it was, the provider is to call again
        return problems.unexpected(error, "POST", Unavailable("this callback could not be kept"))
    if reply in _REFUSALS:
        logs.note(code=_REFUSALS[reply].code)
    return reply


def _announces_too_much(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    for name, value in headers:
        if name == b"content-length" and value.isdigit():
            return int(value[:20]) > MAX_BYTES
    return False


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


class Door:
    """The ASGI application, seen from outside: takes callbacks, and hands everything else on.

    The same answers as the route above at a third of its cost: no middleware, no router, no parameters, and answers
    that were made beforehand. While tracing is on, callbacks take the way that all requests take.
    """

    def __init__(self, app: Asgi, use: Callable[[], Resources]) -> None:
        self._app = app
        self._use = use

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(_PREFIX) or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        submission_id, _, token = scope["path"][len(_PREFIX) :].partition("/")
        if not submission_id or not token or "/" in token or tracing.is_on():
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), int(HTTPStatus.INTERNAL_SERVER_ERROR)
        with logs.collecting() as facts:
            try:
                reply = await _reply(self._use(), submission_id, token, scope["headers"], receive)
                response = _ANSWERS[reply] if isinstance(reply, Reply) else reply
                status = response.status_code
                await response(scope, receive, send)
            finally:
                request_log.tell("POST", _ROUTE, status, time.monotonic() - started, facts)


_PREFIX = "/callbacks/"
_ROUTE = "/callbacks/{submission_id}/{token}"
_ANSWERS = {reply: _answer(reply) for reply in Reply}
