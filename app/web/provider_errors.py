"""Errors of the provider-compatible API, where its clients read them in another form than in the native API.

- 422: `detail` is the list that FastAPI makes and that clients generated from BFL's OpenAPI document read.
- A missing or wrong API key: 403 at `/v1`, as at Black Forest Labs, and 401 at `/flux/v1`, as at GPTProto.
"""

import re
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field

from app.errors import FluxhookError, InvalidRequest, KeyRefused, KeyReused, Unauthorized
from app.telemetry import logs
from app.web import problems
from app.web.problems import responses
from app.web.schemas.problems import ProblemMembers

_UNTYPED = "value_error"
_PARTS = re.compile(r"[^.\[\]]+")  # of a name such as images[2] or webhook_events.1
_HEADERS = frozenset({"idempotency-key"})
_NO_KEY = "Not authenticated: send a valid API key as `x-key: KEY` or `Authorization: Bearer KEY`"


class InvalidField(BaseModel):
    """One invalid field, as FastAPI describes it."""

    loc: Annotated[list[str | int], Field(examples=[["body", "aspect_ratio"]])]
    msg: str
    type: Annotated[str, Field(examples=["value_error"])]


class InvalidFields(ProblemMembers):
    """The body of a 422 in the provider's form, with the other members of a `Problem`."""

    detail: list[InvalidField]
    message: Annotated[str, Field(description="All fields and reasons as one text.")]


class ProviderRoute(APIRoute):
    """A route that answers 422 in the provider's form."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                found = error.errors()
                problem = problems.invalid([{**each, "loc": each["loc"][1:2]} for each in found])
                fields = [InvalidField(loc=list(e["loc"]), msg=problems.reason_of(e), type=e["type"]) for e in found]
                return _answer(problem, fields)
            except FluxhookError as error:
                if error.status != HTTPStatus.UNPROCESSABLE_ENTITY:
                    raise
                return _answer(error, _fields(error))

        return handler


def key_refused(mount: str) -> Unauthorized:
    """Return the error for a missing or wrong API key at this prefix of the path."""
    return Unauthorized(_NO_KEY) if mount else KeyRefused(_NO_KEY)


def without_body(mount: str) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI descriptions of the errors of every route under this prefix."""
    return responses(HTTPStatus(key_refused(mount).status), HTTPStatus.SERVICE_UNAVAILABLE)


def refusals(mount: str) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI descriptions of the errors of the routes under this prefix that take parameters."""
    invalid = {"model": InvalidFields, "description": HTTPStatus.UNPROCESSABLE_ENTITY.phrase}
    return {
        **without_body(mount),
        **responses(HTTPStatus.BAD_REQUEST),
        HTTPStatus.UNPROCESSABLE_ENTITY: invalid,
    }


def _answer(error: FluxhookError, fields: Sequence[InvalidField]) -> JSONResponse:
    logs.note(code=error.code)
    detail = [field.model_dump() for field in fields]
    return JSONResponse({**problems.document(error), "detail": detail}, error.status)


def _fields(error: FluxhookError) -> list[InvalidField]:
    if isinstance(error, KeyReused):
        return [InvalidField(loc=["header", "idempotency-key"], msg=error.detail, type=error.code)]
    types = error.types if isinstance(error, InvalidRequest) else {}
    if not error.fields:
        return [InvalidField(loc=["body"], msg=error.detail, type=_UNTYPED)]
    return [
        InvalidField(loc=_location(name), msg=reason, type=types.get(name, _UNTYPED))
        for name, reason in error.fields.items()
    ]


def _location(name: str) -> list[str | int]:
    if name.lower() in _HEADERS:
        return ["header", name.lower()]
    if name == "body":
        return ["body"]
    return ["body", *(int(part) if part.isdecimal() else part for part in _PARTS.findall(name))]
