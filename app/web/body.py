"""Reading a JSON body: the API key is checked first, then the size, then the content."""

import codecs
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from app.errors import MalformedRequest, TooLarge, UnsupportedMediaType
from app.web.problems import invalid, responses

M = TypeVar("M", bound=BaseModel)

_MAX_BYTES = 64 * 1024
# The additional error responses of a route with a body.
REFUSALS = responses(
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
)


def json_body(model: type[M]) -> Callable[[Request], Awaitable[M]]:
    """Return a dependency that reads the body as this model.

    Declare it after the dependency that checks the API key: a body parameter of FastAPI would be read completely, and
    without a key. Each value must have the type of its member in JSON: true is no number, and 1.0 no integer.

    Raises TooLarge, MalformedRequest, InvalidRequest or UnsupportedMediaType.
    """

    async def read(request: Request) -> M:
        if media_type(request) != "application/json":
            raise UnsupportedMediaType("the content type must be application/json")
        body = await bounded(request, _MAX_BYTES, f"the body must not exceed {_MAX_BYTES // 1024} KB").body()
        try:
            return model.model_validate_json(json_text(body), strict=True)
        except ValidationError as error:
            raise invalid(error.errors(include_input=False, include_url=False)) from None

    return read


def json_text(body: bytes) -> bytes:
    """Return a JSON body without a byte order mark. Raises MalformedRequest for UTF-16 and UTF-32.

    JSON is UTF-8 (RFC 8259); some libraries put the mark of UTF-8 in front of it.
    """
    if body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or 0 in body[:2]:
        raise MalformedRequest("the body is not valid JSON: it must be UTF-8, not UTF-16 or UTF-32")
    return body.removeprefix(codecs.BOM_UTF8)


def described(model: type[BaseModel], **examples: Any) -> dict[str, Any]:
    """Return the OpenAPI description of a request body of this model."""
    schema = model.model_json_schema()
    content: dict[str, Any] = {"schema": _inlined(schema, schema.pop("$defs", {}))}
    if examples:
        content["examples"] = {name: {"value": value} for name, value in examples.items()}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def _inlined(node: Any, parts: dict[str, Any]) -> Any:
    """Return a schema with its parts in the places that refer to them: such a reference has no target in OpenAPI."""
    if isinstance(node, list):
        return [_inlined(item, parts) for item in node]
    if not isinstance(node, dict):
        return node
    if isinstance(reference := node.get("$ref"), str):
        return _inlined(parts[reference.rpartition("/")[2]], parts)
    return {name: _inlined(value, parts) for name, value in node.items()}


def media_type(request: Request) -> str:
    """Return the declared media type; `application/json` for every `+json` type.

    Raises UnsupportedMediaType for a body with a content encoding.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("the body must not have a content-encoding")
    declared = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return "application/json" if declared.endswith("+json") else declared


def declared_length(request: Request) -> int | None:
    """Return the Content-Length in bytes, or None without a valid one. A number is cut after 20 digits."""
    declared = request.headers.get("content-length", "")
    return int(declared[:20]) if declared.isdecimal() else None


def bounded(request: Request, limit: int, refusal: str) -> Request:
    """Return the request with a limit: reading more than `limit` bytes of its body raises TooLarge.

    Raises TooLarge at once if the Content-Length exceeds the limit. `refusal` is the detail of the error.
    """
    if (declared_length(request) or 0) > limit:
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
