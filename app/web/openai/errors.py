"""Errors in OpenAI's form: `{"error": {"message", "type", "code", "param"}}`.

`param` is the name of the member at fault. The task that an error is about is in `task_id`, and in `task_ids` if there
are several.

The `openai` packages repeat a request after 408, 409, 429 and every 5xx unless `x-should-retry` says otherwise. So it
is `false` after each error that a repetition does not remove: it could only make, and charge, another image.
"""

from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any

from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from app.errors import BudgetExceeded, FluxhookError, InvalidRequest, LimitExceeded, Unauthorized
from app.web import problems

_REPEATED = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS})
_SERVER_ERROR = 500
# The codes that OpenAI has for what pydantic calls these.
_CODES = {"missing": "missing_required_parameter", "extra_forbidden": "unknown_parameter"}
_TYPES = {
    HTTPStatus.PAYMENT_REQUIRED: "insufficient_quota",
    HTTPStatus.FORBIDDEN: "permission_error",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
}


class ErrorMembers(BaseModel):
    """An error as the `openai` packages read it."""

    model_config = ConfigDict(extra="allow")  # what a limit or a budget adds

    message: str
    type: Annotated[str, Field(examples=["invalid_request_error"])]
    code: Annotated[str, Field(examples=["invalid_value"])]
    param: Annotated[
        str | None, Field(examples=["size"], description="The member of the request that is at fault.")
    ] = None
    task_id: Annotated[str | None, Field(description="The task that the error is about.")] = None
    task_ids: Annotated[list[str] | None, Field(description="All of them, if there are several.")] = None
    remaining: Annotated[float | None, Field(description="With `insufficient_quota`: the credits that are left.")] = (
        None
    )
    resets_at: Annotated[
        datetime | None, Field(description="With `insufficient_quota`: when the budget starts anew.")
    ] = None
    limit: Annotated[str | None, Field(description="With `rate_limit_exceeded`: the limit that is reached.")] = None


class OpenAiError(BaseModel):
    """The body of every error response below `/openai/v1`."""

    error: ErrorMembers


def answer(error: FluxhookError, status: int | None = None) -> JSONResponse:
    """Return the response for an error; `status` replaces the error's own."""
    status = status_of(error) if status is None else status
    headers = problems.noted_headers(error)
    if status >= _SERVER_ERROR or status in _REPEATED:
        headers["x-should-retry"] = "true" if error.retryable else "false"
    return JSONResponse(document(error, status), status, headers)


def status_of(error: FluxhookError) -> int:
    """Return the status of an error: OpenAI answers 400 where Fluxhook answers 422."""
    return HTTPStatus.BAD_REQUEST if error.status == HTTPStatus.UNPROCESSABLE_ENTITY else error.status


def document(error: FluxhookError, status: int) -> dict[str, Any]:
    """Return the body of an error with this status."""
    members: dict[str, Any] = {
        "message": error.detail,
        "type": _type(status),
        "code": _code(error),
        "param": next(iter(error.fields), None),
    }
    members |= error.members
    if len(error.task_ids) > 1:
        members["task_ids"] = list(error.task_ids)
    return {"error": members}


def _type(status: int) -> str:
    if status >= _SERVER_ERROR:
        return "server_error"
    return _TYPES.get(HTTPStatus(status), "invalid_request_error")


def _code(error: FluxhookError) -> str:
    if isinstance(error, Unauthorized):
        return "invalid_api_key"
    if isinstance(error, BudgetExceeded):
        return "insufficient_quota"
    if isinstance(error, LimitExceeded):
        return "rate_limit_exceeded"
    if not isinstance(error, InvalidRequest):
        return error.code
    first = next(iter(error.fields), "")
    return _CODES.get(error.types.get(first, ""), "invalid_value")


def responses(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI descriptions of error responses of a route."""
    return {int(status): {"model": OpenAiError, "description": status.phrase} for status in statuses}
