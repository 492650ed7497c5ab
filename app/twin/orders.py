"""What a submit body must be, and the refusals a caller can get instead of a task."""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, HttpUrl, TypeAdapter, ValidationError

RATIO = re.compile(r"(\d{1,4}):(\d{1,4})", re.ASCII)
URL = TypeAdapter(HttpUrl)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why nothing was accepted. `code` is the word the skills form of the contract has for it."""

    status: int
    code: str
    message: str
    detail: list[dict[str, Any]] | None = None


def ratio_of(value: str) -> float:
    """Width over height of "W:H". Raises ValueError outside 21:9 to 9:21."""
    match = RATIO.fullmatch(value)
    width, height = map(int, match.groups()) if match else (0, 0)
    if not width or not height:
        raise ValueError("aspect_ratio must be W:H")
    if not 9 * height <= 21 * width or not 9 * width <= 21 * height:
        raise ValueError("aspect_ratio must be between 21:9 and 9:21")
    return width / height


def _check_ratio(value: str) -> str:
    ratio_of(value)
    return value


def _check_url(value: str) -> str:
    # Checked but not rewritten: a callback goes to the address exactly as it was given.
    URL.validate_python(value)
    return value


WebhookUrl = Annotated[str, Field(min_length=1, max_length=2083), AfterValidator(_check_url)]


class Order(BaseModel):
    """The body of a submit, `FluxKontextProInputs`. Unknown fields are refused, as newer endpoints do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str
    input_image: str | None = None
    input_image_2: str | None = None
    input_image_3: str | None = None
    input_image_4: str | None = None
    seed: int | None = None
    aspect_ratio: Annotated[str, AfterValidator(_check_ratio)] | None = None
    output_format: Literal["jpeg", "png", "webp"] | None = None
    webhook_url: WebhookUrl | None = None
    webhook_secret: str | None = None
    prompt_upsampling: bool = False
    safety_tolerance: Annotated[int, Field(ge=0, le=6)] = 2

    def images(self) -> dict[str, str]:
        """Field name to base64 or URL, of the inputs that were given."""
        named = ("input_image", "input_image_2", "input_image_3", "input_image_4")
        return {name: value for name in named if (value := getattr(self, name)) is not None}


def read_order(body: bytes) -> Order | Refusal:
    try:
        return Order.model_validate_json(body)
    except ValidationError as problem:
        return invalid(validation_detail(problem))


def invalid(detail: list[dict[str, Any]]) -> Refusal:
    return Refusal(422, "validation_error", detail[0]["msg"], detail)


def invalid_field(name: str, message: str) -> Refusal:
    return invalid([{"loc": ["body", name], "msg": message, "type": "value_error"}])


def validation_detail(problem: ValidationError) -> list[dict[str, Any]]:
    """FastAPI's list of `loc`, `msg`, `type`; without the input, which may be 20 MB of picture."""
    found = problem.errors(include_url=False, include_context=False, include_input=False)
    return [{"loc": ["body", *one["loc"]], "msg": one["msg"], "type": one["type"]} for one in found]
