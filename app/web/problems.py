"""Error responses: one document that clients of Fluxhook and of both providers can read.

It has the members of RFC 9457 (`type`, `title`, `status`, `detail`), and `message` and `error` as in the errors of
the providers. It never has a member `errors`, which some clients would misinterpret.
"""

import re
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from app.errors import FluxhookError, InvalidRequest, MalformedRequest, NotFound, RequestError, Unavailable
from app.telemetry import logs

MEDIA_TYPE = "application/problem+json"
_RETRY_AFTER_S = "5"
_MODEL_PATH = re.compile(r"/(?:flux/)?v1/([A-Za-z0-9][A-Za-z0-9._-]{0,63}(?:/[A-Za-z0-9][A-Za-z0-9._-]{0,63})?)")
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")

log = logs.get("web")


class ProviderError(BaseModel):
    """The error in the form of the providers' errors."""

    message: str
    type: Annotated[str, Field(description="The HTTP status as text.", examples=["422"])]


class ProblemMembers(BaseModel):
    type: Annotated[str, Field(examples=["urn:fluxhook:problem:invalid_request"])]
    title: str
    status: int
    code: Annotated[str, Field(description="Stable error code; the last part of `type`.", examples=["invalid_request"])]
    message: Annotated[str, Field(description="The same as `detail`.")]
    error: ProviderError
    fields: Annotated[
        dict[str, str] | None,
        Field(description="The reason for each invalid field; present only if fields are invalid."),
    ] = None
    task_id: Annotated[
        str | None, Field(description="The task that may have been recorded; present only with `task_may_exist`.")
    ] = None


class Problem(ProblemMembers):
    """The body of every error response (RFC 9457)."""

    detail: str


def document(error: FluxhookError, status: int | None = None) -> dict[str, Any]:
    """Return the error document of an error; `status` replaces the error's own status."""
    status = status or error.status
    body: dict[str, Any] = {
        "type": f"urn:fluxhook:problem:{error.code}",
        "title": error.title,
        "status": status,
        "detail": error.detail,
        "code": error.code,
        "message": error.detail,
        "error": {"message": error.detail, "type": str(int(status))},
    }
    if error.fields:
        body["fields"] = error.fields
    if error.task_id is not None:
        body["task_id"] = error.task_id
    return body


def answer(error: FluxhookError, status: int | None = None) -> JSONResponse:
    logs.note(code=error.code)
    if isinstance(error, Unavailable) and error.resource is not None:
        logs.note(resource=error.resource)
    headers = {}
    if error.retryable:
        headers["retry-after"] = _RETRY_AFTER_S
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(document(error, status), status or error.status, headers, MEDIA_TYPE)


def responses(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI descriptions of the error responses of a route."""
    return {
        int(status): {
            "description": status.phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }


def install(app: FastAPI) -> None:
    """Register handlers so that every error of this application is answered with the error document."""
    app.add_exception_handler(FluxhookError, _ours)
    app.add_exception_handler(RequestValidationError, _parameters)
    app.add_exception_handler(HTTPException, _routing)
    app.add_exception_handler(ClientDisconnect, _disconnected)
    app.add_exception_handler(Exception, _unexpected)


async def _ours(_request: Request, error: Exception) -> Response:
    assert isinstance(error, FluxhookError)  # noqa: S101 - registered for this type above
    return answer(error)


async def _parameters(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    # The location begins with `query`, `path` or `header`, and may end with the position in a list.
    return answer(invalid([{**finding, "loc": finding["loc"][1:2]} for finding in error.errors()]))


async def _routing(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    if error.status_code == HTTPStatus.NOT_FOUND:
        return answer(NotFound(_not_found(request)))
    phrase = HTTPStatus(error.status_code).phrase
    problem = RequestError(phrase.lower())
    problem.title, problem.code = phrase, phrase.lower().replace(" ", "_")
    response = answer(problem, error.status_code)
    response.headers.update(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED and (allowed := _allowed(request)):
        response.headers["allow"] = ", ".join(allowed)
    return response


def _not_found(request: Request) -> str:
    """Describe a path without a route. A client of the provider may ask for a model that is not served here."""
    model = _MODEL_PATH.fullmatch(request.scope["path"])
    catalog = request.app.state.catalog
    if model is None or request.method != "POST" or not catalog.may_name_a_model(model[1]):
        return "there is no resource at this path"
    return f"the model {catalog.why_not(model[1])}"


def _allowed(request: Request) -> list[str]:
    """Return the methods of all routes at this path, where the error has those of one route. Empty under a mount."""
    scopes = [(method, {**request.scope, "method": method}) for method in _METHODS]
    routes = request.app.routes
    return [method for method, scope in scopes if any(route.matches(scope)[0] is Match.FULL for route in routes)]


async def _disconnected(_request: Request, _error: Exception) -> Response:
    return disconnected()


def disconnected() -> JSONResponse:
    """Return the answer for a closed connection. It reaches only the log."""
    return answer(MalformedRequest("the connection was closed before the request was complete"))


async def _unexpected(request: Request, error: Exception) -> Response:
    return unexpected(error, request.method, FluxhookError("an unexpected error: see the log of the service"))


def unexpected(error: Exception, method: str, answered: FluxhookError) -> JSONResponse:
    """Log an unexpected error, and return the answer for `answered`."""
    log_unexpected(error, method)
    return answer(answered)


def log_unexpected(error: Exception, method: str) -> None:
    log.error("unexpected", error=type(error).__name__, method=method)


def invalid(errors: Any) -> FluxhookError:
    """Return the error for validation errors of pydantic. It names the fields and never contains their values."""
    if any(error["type"] == "json_invalid" for error in errors):
        return MalformedRequest("the body is not valid JSON")
    fields = {_field(error["loc"]): reason_of(error) for error in errors[:20]}
    problem = InvalidRequest("; ".join(f"{field}: {reason}" for field, reason in fields.items()), fields)
    problem.types = {_field(error["loc"]): error["type"] for error in errors[:20]}
    return problem


def _field(location: Any) -> str:
    return ".".join(map(str, location))[:100] or "body"


def reason_of(error: Any) -> str:
    """Return what a validation error of pydantic found, without the value."""
    known = {
        "extra_forbidden": "unknown field",
        "missing": "is required",
        "model_type": "must be a JSON object",
        "model_attributes_type": "must be a JSON object",
        "string_pattern_mismatch": "has an invalid format",
    }
    if error.get("ctx", {}).get("pattern") == r"\S":
        return "must not be blank"
    message = str(error["msg"]).removeprefix("Value error, ")
    return known.get(error["type"], message[:1].lower() + message[1:])
