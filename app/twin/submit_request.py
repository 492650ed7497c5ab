"""The body of a submit request, and the refusals that a caller can get instead of a task."""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, HttpUrl, TypeAdapter, ValidationError

RATIO = re.compile(r"(\d{1,4}):(\d{1,4})", re.ASCII)
URL = TypeAdapter(HttpUrl)


@dataclass(frozen=True, slots=True)
class Refusal:
    """The reason for a refused request. `code` is its error code in the skills guide of the contract."""

    status: int
    code: str
    message: str
    detail: list[dict[str, Any]] | None = None


def ratio_of(value: str) -> float:
    """Return width divided by height of "W:H". Raises ValueError if it is not from 21:9 to 9:21."""
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
    # Checked but not normalised: a callback goes to the URL exactly as it was given.
    URL.validate_python(value)
    return value


WebhookUrl = Annotated[str, Field(min_length=1, max_length=2083), AfterValidator(_check_url)]


class SubmitRequest(BaseModel):
    """The body of a submit request, `FluxKontextProInputs`. Unknown fields are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")

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
    user: Annotated[str, Field(min_length=1, max_length=256)] | None = None

    def images(self) -> dict[str, str]:
        """Return the given input images: base64 or a URL, by field name."""
        names = ("input_image", "input_image_2", "input_image_3", "input_image_4")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


def read_submit_request(body: bytes) -> SubmitRequest | Refusal:
    try:
        return SubmitRequest.model_validate_json(body)
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
