"""The route that providers call. It needs no key: the address holds a token, the body proves itself."""

from http import HTTPStatus
from typing import Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from app.callback import MAX_BYTES, Reply, receive, tell
from app.errors import NotFound, TooLarge
from app.web import problems
from app.web.access import Use

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
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > MAX_BYTES:
        reply = tell(Reply.TOO_LARGE)
    else:
        reply = await receive(use, submission_id, token, request.headers.raw, request.stream())
    match reply:
        case Reply.ACCEPTED:
            return JSONResponse({"status": "success"})
        case Reply.FORGED:
            return JSONResponse(_FORGED, HTTPStatus.UNAUTHORIZED)
        case Reply.TOO_LARGE:
            return problems.answer(TooLarge(f"a callback may have {MAX_BYTES // 1024} KiB"))
        case Reply.UNKNOWN:
            return problems.answer(NotFound("there is no such callback address"))
