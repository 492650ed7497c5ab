"""Error responses: one document that clients of Fluxhook and of both providers can read.

It has the members of RFC 9457 (`type`, `title`, `status`, `detail`), and `message` and `error` as in the errors of
the providers. It never has a member `errors`, which some clients would misinterpret.
"""

import math
import re
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from app.errors import ClientGone, FluxhookError, InvalidRequest, MalformedRequest, NotFound, RequestError, Unavailable
from app.telemetry import logs

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = "5"
_MODEL_PATH = re.compile(r"/(?:flux/)?v1/([A-Za-z0-9][A-Za-z0-9._-]{0,63}(?:/[A-Za-z0-9][A-Za-z0-9._-]{0,63})?)")
_MEMBER_OF_ENUM = re.compile(r"<\w+\.\w+: ('[^']*')>")  # as pydantic shows one in a Literal
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")

# Returns the response for an error; the status, if given, replaces the error's own.
Form = Callable[[FluxhookError, int | None], JSONResponse]
Page = Callable[[Request, FluxhookError], Awaitable[Response]]

log = logs.get("web")


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
    return body | dict(error.members)


def answer(error: FluxhookError, status: int | None = None) -> JSONResponse:
    return JSONResponse(document(error, status), status or error.status, noted_headers(error), MEDIA_TYPE)


def noted_headers(error: FluxhookError) -> dict[str, str]:
    """Note the error for the request's log line, and return the headers of its response."""
    logs.note(code=error.code)
    if isinstance(error, Unavailable) and error.resource is not None:
        logs.note(resource=error.resource)
    headers = {}
    if error.retryable:
        headers["retry-after"] = retry_after(error)
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    return headers


def retry_after(error: FluxhookError) -> str:
    """Return the value of `Retry-After` in whole seconds, at least one."""
    wait = error.retry_after
    return RETRY_AFTER_S if wait is None else str(max(1, math.ceil(wait.total_seconds())))


def responses(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI descriptions of the error responses of a route.

    A route that needs an API key can also be refused because the key lacks a scope.
    """
    if HTTPStatus.UNAUTHORIZED in statuses:
        statuses = (*statuses, HTTPStatus.FORBIDDEN)
    return {
        int(status): {
            "description": status.phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }


# Of most routes: the key, what the request says, or an outage.
USUAL_ERRORS = responses(HTTPStatus.UNAUTHORIZED, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE)


def install(app: FastAPI, forms: Mapping[str, Form], page: Page) -> None:
    """Register handlers so that every error of this application is answered with a document.

    `forms`: by the prefix of a path, how errors below it are answered; elsewhere with the error document.
    `page`: how a browser is answered that asks for a path without a route, or meets an unexpected error.
    """
    app.state.error_forms, app.state.error_page = forms, page
    app.add_exception_handler(FluxhookError, _ours)
    app.add_exception_handler(RequestValidationError, _parameters)
    app.add_exception_handler(HTTPException, _routing)
    app.add_exception_handler(ClientDisconnect, _disconnected)
    app.add_exception_handler(Exception, _unexpected)


def _in_form(request: Request, error: FluxhookError, status: int | None = None) -> JSONResponse:
    forms: Mapping[str, Form] = request.app.state.error_forms
    path = request.scope["path"]
    form = next((form for prefix, form in forms.items() if path.startswith(prefix)), answer)
    return form(error, status)


async def _ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, FluxhookError)  # noqa: S101 - registered for this type above
    return _in_form(request, error)


async def _parameters(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    # The location begins with `query`, `path` or `header`, and may end with the position in a list.
    return _in_form(request, invalid([{**finding, "loc": finding["loc"][1:2]} for finding in error.errors()]))


async def _routing(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    if error.status_code == HTTPStatus.NOT_FOUND:
        return await _for_person_or_program(request, NotFound(_not_found(request)))
    phrase = HTTPStatus(error.status_code).phrase
    problem = RequestError(phrase.lower())
    problem.title, problem.code = phrase, phrase.lower().replace(" ", "_")
    response = _in_form(request, problem, error.status_code)
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


async def _disconnected(request: Request, _error: Exception) -> Response:
    waiting = getattr(request.state, "answer", None)
    if waiting is not None and waiting.is_gone:
        return answer(ClientGone("the client hung up before the answer was complete"))
    return disconnected()


def disconnected() -> JSONResponse:
    """Return the answer for a closed connection. It reaches only the log."""
    return answer(MalformedRequest("the connection was closed before the request was complete"))


async def _unexpected(request: Request, error: Exception) -> Response:
    log_unexpected(error, request.method)
    return await _for_person_or_program(request, FluxhookError("an unexpected error: see the log of the service"))


async def _for_person_or_program(request: Request, error: FluxhookError) -> Response:
    """Answer with a page if a browser wants to show one, else with a document."""
    document = _in_form(request, error)
    if request.method != "GET" or "text/html" not in request.headers.get("accept", ""):
        return document
    page: Page = request.app.state.error_page
    return await page(request, error)


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
    message = _MEMBER_OF_ENUM.sub(r"\1", str(error["msg"]).removeprefix("Value error, "))
    return known.get(error["type"], message[:1].lower() + message[1:])
