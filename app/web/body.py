"""Reading a JSON body: who may ask comes first, then its size, then its words."""

from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from app.errors import TooLarge, UnsupportedMediaType
from app.web.problems import invalid, responses

M = TypeVar("M", bound=BaseModel)

_MAX_BYTES = 64 * 1024
# What a route with a body may answer, beyond what it answers to anybody.
REFUSALS = responses(
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
)


def json_body(model: type[M]) -> Callable[[Request], Awaitable[M]]:
    """A dependency that reads the body as this model.

    To be named after the one that looks at the key: what FastAPI reads by itself it reads first, all of it, from
    anybody. Raises TooLarge, MalformedRequest, InvalidRequest or UnsupportedMediaType.
    """

    async def read(request: Request) -> M:
        if media_type(request) != "application/json":
            raise UnsupportedMediaType("send application/json")
        body = await bounded(request, _MAX_BYTES, f"the body may have {_MAX_BYTES // 1024} KB").body()
        try:
            return model.model_validate_json(body)
        except ValidationError as error:
            raise invalid(error.errors(include_input=False, include_url=False)) from None

    return read


def described(model: type[BaseModel], **examples: Any) -> dict[str, Any]:
    """The request's part of a route's OpenAPI entry."""
    content: dict[str, Any] = {"schema": model.model_json_schema()}
    if examples:
        content["examples"] = {name: {"value": value} for name, value in examples.items()}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def media_type(request: Request) -> str:
    """What the body is said to be; `application/json` for every kind of JSON. Raises UnsupportedMediaType."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("send the body without a content-encoding")
    named = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return "application/json" if named.endswith("+json") else named


def bounded(request: Request, limit: int, refusal: str) -> Request:
    """The same request, whose body ends in TooLarge past `limit` bytes."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > limit:
        raise TooLarge(refusal)
    received = 0

    async def receive() -> MutableMapping[str, Any]:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise TooLarge(refusal)
        return message

    return Request(request.scope, receive)
