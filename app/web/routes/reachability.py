"""What arrives of a request to the public address: `fluxhook doctor` finds with it a proxy that changes callbacks."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, Field

from app.callback import MAX_BYTES
from app.security import arrival
from app.security.arrival import Arrival
from app.web.auth import ResourcesDep
from app.web.body import bounded
from app.web.problems import responses

router = APIRouter(tags=["callbacks"])

_BODY = {"schema": {"type": "string", "format": "binary"}}
_TOO_LARGE = f"the body must not exceed {MAX_BYTES // 1024} KiB"


class Arrived(BaseModel):
    path: Annotated[str, Field(description="The end of the path.")]
    body: Annotated[str, Field(description="The SHA-256 of the body, in hex.")]
    headers: Annotated[
        dict[str, str | None],
        Field(description="The SHA-256 of the value of each header; null if it is missing or comes twice."),
    ]
    proof: Annotated[str, Field(description="Proves that the installation with these secret keys has answered.")]


@router.post(
    "/callbacks/reachability/check/{token}",
    openapi_extra={
        "requestBody": {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
    },
    responses=responses(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY),
)
async def post_check(
    token: Annotated[str, Path(max_length=64, description="Any text.")], request: Request, use: ResourcesDep
) -> Arrived:
    """Return digests of what arrived of this request. Stores nothing."""
    body = await bounded(request, MAX_BYTES, _TOO_LARGE).body()
    found = Arrival.of(token, body, {name: request.headers.getlist(name) for name in arrival.HEADERS})
    return Arrived(path=token, body=found.body, headers=dict(found.headers), proof=found.proof(use.keys))
