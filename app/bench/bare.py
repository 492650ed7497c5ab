"""What bounds us from above: uvicorn with no framework, and a FastAPI route that only checks the signature."""

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from app.sign import bfl_signature

# Who measures signs for these servers with one secret; there is no record to look a task's own up in.
SECRET = "one-secret-for-all-reference-servers"  # noqa: S105 - signs made-up callbacks on loopback
_BODY = b'{"status":"success"}'  # as long as ours

Message = MutableMapping[str, Any]


async def bare(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    """Read the body, answer 200."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(_BODY)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": _BODY})


def hmac_only() -> FastAPI:
    """FastAPI, the raw body, its HMAC under a secret that is known: the least that any receiver must do."""
    app = FastAPI(openapi_url=None)

    @app.post("/callbacks/{submission_id}/{token}")
    async def post_callback(submission_id: str, token: str, request: Request) -> Response:  # noqa: ARG001
        if not proven(request.headers.get("x-bfl-signature"), await request.body()):
            return JSONResponse({"error": {"message": "Invalid signature", "type": "401"}}, 401)
        return JSONResponse({"status": "success"})

    return app


def proven(signature: str | None, body: bytes) -> bool:
    return hmac.compare_digest((signature or "").encode(), bfl_signature(SECRET, body).encode())
