"""Errors as answers: one document that clients of every family can read.

RFC 9457's members (`type`, `title`, `status`, `detail`), and `message` and `error` as the providers' own
errors have them. There is never a key named `errors`: one client family would take it for something else.
"""

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from app.errors import FluxhookError, InvalidRequest, MalformedRequest, NotFound, RequestError
from app.telemetry import logs

MEDIA_TYPE = "application/problem+json"
_RETRY_AFTER_S = "5"
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")

log = logs.get("web")


class ProviderError(BaseModel):
    """The error as the providers write theirs."""

    message: str
    type: Annotated[str, Field(description="The HTTP status as text.", examples=["422"])]


class Problem(BaseModel):
    """What every refused request gets."""

    type: Annotated[str, Field(examples=["urn:fluxhook:problem:invalid_request"])]
    title: str
    status: int
    detail: str
    code: Annotated[str, Field(description="Stable; the last part of `type`.", examples=["invalid_request"])]
    message: Annotated[str, Field(description="The same as `detail`.")]
    error: ProviderError
    fields: Annotated[
        dict[str, str] | None, Field(description="What is wrong with each field, where fields are at fault.")
    ] = None


def document(error: FluxhookError, status: int | None = None) -> dict[str, Any]:
    """The error document of an error."""
    status = status or error.status
    body = {
        "type": f"urn:fluxhook:problem:{error.code}",
        "title": error.title,
        "status": status,
        "detail": error.detail,
        "code": error.code,
        "message": error.detail,
        "error": {"message": error.detail, "type": str(int(status))},
    }
    return {**body, "fields": error.fields} if error.fields else body


def answer(error: FluxhookError, status: int | None = None) -> JSONResponse:
    logs.note(code=error.code)
    headers = {}
    if error.retryable:
        headers["retry-after"] = _RETRY_AFTER_S
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(document(error, status), status or error.status, headers, MEDIA_TYPE)


def responses(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """What a route's OpenAPI entry says of the errors that it may answer with."""
    return {
        int(status): {
            "description": status.phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }


def install(app: FastAPI) -> None:
    """Have every error of this app answered with the document."""
    app.add_exception_handler(FluxhookError, _ours)
    app.add_exception_handler(RequestValidationError, _parameters)
    app.add_exception_handler(HTTPException, _routing)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _unexpected)


async def _ours(_request: Request, error: Exception) -> Response:
    assert isinstance(error, FluxhookError)  # noqa: S101 - the registration above says so
    return answer(error)


async def _parameters(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    # FastAPI says first whether it was in the query, the path or the body: no caller needs that.
    return answer(invalid([{**each, "loc": each["loc"][1:]} for each in error.errors()]))


async def _routing(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    if error.status_code == HTTPStatus.NOT_FOUND:
        return answer(NotFound("there is no such address"))
    phrase = HTTPStatus(error.status_code).phrase
    problem = RequestError(phrase.lower())
    problem.title, problem.code = phrase, phrase.lower().replace(" ", "_")
    response = answer(problem, error.status_code)
    response.headers.update(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED and (allowed := _allowed(request)):
        response.headers["allow"] = ", ".join(allowed)
    return response


def _allowed(request: Request) -> list[str]:
    """The methods of all routes at this address: the error names those of the first. None under a mount."""
    asked = [(method, {**request.scope, "method": method}) for method in _METHODS]
    routes = request.app.routes
    return [method for method, scope in asked if any(route.matches(scope)[0] is Match.FULL for route in routes)]


async def _gone(_request: Request, _error: Exception) -> Response:
    return gone()


def gone() -> JSONResponse:
    """For a caller that nobody will reach any more, and for the log."""
    return answer(MalformedRequest("the connection was closed before the request was complete"))


async def _unexpected(request: Request, error: Exception) -> Response:
    return unexpected(error, request.method, FluxhookError("an unexpected error; the service's log has it"))


def unexpected(error: Exception, method: str, told: FluxhookError) -> JSONResponse:
    """Log what should not have happened, and answer with what the caller is told of it."""
    log.error("unexpected", error=type(error).__name__, method=method)
    return answer(told)


def invalid(errors: Any) -> FluxhookError:
    """The refusal for what pydantic found, naming each field and never what was in it."""
    if any(each["type"] == "json_invalid" for each in errors):
        return MalformedRequest("the body is not valid JSON")
    fields = {_place(each["loc"]): _reason(each) for each in errors[:20]}
    return InvalidRequest("; ".join(f"{field}: {reason}" for field, reason in fields.items()), fields)


def _place(location: Any) -> str:
    return ".".join(map(str, location))[:100] or "body"


def _reason(error: Any) -> str:
    known = {
        "extra_forbidden": "there is no such field",
        "missing": "is required",
        "model_type": "must be a JSON object",
        "model_attributes_type": "must be a JSON object",
        "string_pattern_mismatch": "does not have the form of such a value",
    }
    if error.get("ctx", {}).get("pattern") == r"\S":
        return "must not be blank"
    message = str(error["msg"]).removeprefix("Value error, ")
    return known.get(error["type"], message[:1].lower() + message[1:])
