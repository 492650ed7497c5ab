"""The route that providers call. It needs no key: the address holds a token, the body proves itself."""

import time
from collections.abc import Callable, Sequence
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
    response = await _reply(use, submission_id, token, request.scope["headers"], request.receive)
    return response or _answer(Reply.ACCEPTED)


async def _reply(
    use: Resources, submission_id: str, token: str, headers: Sequence[tuple[bytes, bytes]], receive: Receive
) -> Response | None:
    """What one callback is answered with; None for the one answer of all that are well."""
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
    return None if reply is Reply.ACCEPTED else _answer(reply)


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
        case Reply.TOO_LARGE:
            return problems.answer(TooLarge(f"a callback may have {MAX_BYTES // 1024} KiB"))
        case Reply.UNKNOWN:
            return problems.answer(NotFound("there is no such callback address"))


class Door:
    """The ASGI application, seen from outside: takes callbacks, and hands everything else on.

    The same answers as the route above at a third of its cost: no middleware, no router, no parameters, and one answer
    for all that are well. While tracing is on, callbacks take the way that all requests take.
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
                response = await _reply(self._use(), submission_id, token, scope["headers"], receive)
                if response is None:
                    status = _OK
                    await send(_WELL)
                    await send(_WELL_BODY)
                else:
                    status = response.status_code
                    await response(scope, receive, send)
            finally:
                request_log.tell("POST", _ROUTE, status, time.monotonic() - started, facts)


_OK = int(HTTPStatus.OK)
_PREFIX = "/callbacks/"
_ROUTE = "/callbacks/{submission_id}/{token}"
_BODY = b'{"status":"success"}'
_WELL = {
    "type": "http.response.start",
    "status": _OK,
    "headers": [(b"content-length", b"%d" % len(_BODY)), (b"content-type", b"application/json")],
}
_WELL_BODY = {"type": "http.response.body", "body": _BODY}
