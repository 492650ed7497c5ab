"""The body of a submit request, and the refusals that a caller can get instead of a task."""

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from app.twin.models import SubmitRequest, schema_of


@dataclass(frozen=True, slots=True)
class Refusal:
    """The reason for a refused request. `code` is its error code in the skills guide of the contract."""

    status: int
    code: str
    message: str
    detail: list[dict[str, Any]] | None = None


def read_submit_request(model: str, body: bytes) -> SubmitRequest | Refusal:
    try:
        return schema_of(model).model_validate_json(body)
    except ValidationError as problem:
        return invalid(validation_detail(problem))


def invalid(detail: list[dict[str, Any]]) -> Refusal:
    return Refusal(422, "validation_error", detail[0]["msg"], detail)


def invalid_field(name: str, message: str) -> Refusal:
    return invalid([{"loc": ["body", name], "msg": message, "type": "value_error"}])


def validation_detail(problem: ValidationError) -> list[dict[str, Any]]:
    """Return FastAPI's list of `loc`, `msg` and `type`, without the input, which may be an image of 20 MB."""
    errors = problem.errors(include_url=False, include_context=False, include_input=False)
    return [{"loc": ["body", *error["loc"]], "msg": error["msg"], "type": error["type"]} for error in errors]
