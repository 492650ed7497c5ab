"""The minimum of any receiver: FastAPI, the raw body, and its HMAC under a fixed secret."""

import hmac

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from app.security.sign import bfl_signature

# One secret for all callbacks: the reference servers have no secret for each attempt.
SECRET = "one-secret-for-all-reference-servers"  # noqa: S105 - signs generated callbacks on loopback


def hmac_only() -> FastAPI:
    app = FastAPI(openapi_url=None)

    @app.post("/callbacks/{submission_id}/{token}")
    async def post_callback(submission_id: str, token: str, request: Request) -> Response:  # noqa: ARG001
        if not proven(request.headers.get("x-bfl-signature"), await request.body()):
            return JSONResponse({"error": {"message": "Invalid signature", "type": "401"}}, 401)
        return JSONResponse({"status": "success"})

    return app


def proven(signature: str | None, body: bytes) -> bool:
    return hmac.compare_digest((signature or "").encode(), bfl_signature(SECRET, body).encode())
