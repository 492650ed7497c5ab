"""The parameters of a task, validated before anything is sent to the provider.

The rules are those that the providers publish: the OpenAPI document of the BFL API and the Kontext guides.
"""

import re
from datetime import UTC, datetime
from typing import Annotated, Literal, get_args

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
)
from pydantic import SecretStr as Secret

from app.rules.json_value import JsonObject
from app.security import sign, ssrf

IMAGE_FIELDS = ("input_image", "input_image_2", "input_image_3", "input_image_4")

# Models whose endpoint passes over fields that it does not know (OpenAPI document); newer ones refuse them.
PASS_UNKNOWN_FIELDS = frozenset({"flux-kontext-pro", "flux-kontext-max"})

_NUMBER = re.compile(r"\s*[+-]?[\d._]+(e[+-]?\d+)?\s*", re.IGNORECASE)
_RATIO = re.compile(r"([1-9][0-9]{0,3}):([1-9][0-9]{0,3})")

Model = Literal["flux-kontext-pro", "flux-kontext-max"]
MODELS: tuple[str, ...] = get_args(Model)

ImageInput = Annotated[
    str | None,
    Field(min_length=1, description="Base64, a `data:` URL, or an http(s) URL. JPEG, PNG or WebP."),
]


def is_storable(text: str) -> bool:
    """Whether the database can store a text: PostgreSQL has no NUL, and UTF-8 cannot encode a lone surrogate."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


class Params(BaseModel):
    """The provider's parameters of one task. Images are not decoded here; `submit` checks them."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    model: Model = "flux-kontext-pro"
    prompt: Annotated[
        str,
        # The provider publishes no maximum. This one keeps a file pasted by mistake out of the database.
        Field(max_length=65_536, pattern=r"\S", description="The image to generate, or the change to make."),
    ]
    input_image: ImageInput = None
    input_image_2: ImageInput = None
    input_image_3: ImageInput = None
    input_image_4: ImageInput = None
    seed: Annotated[
        int | None,
        Field(
            ge=-(2**63),
            le=2**64 - 1,
            description="The same seed and prompt produce nearly the same image.",
        ),
    ] = None
    aspect_ratio: Annotated[
        str | None, Field(max_length=9, description="`W:H`, between 21:9 and 9:21.", examples=["16:9"])
    ] = None
    # The provider's documents disagree on the default (png or jpeg), so a value is always sent.
    output_format: Literal["png", "jpeg", "webp"] = "png"
    prompt_upsampling: Annotated[bool, Field(description="Let the provider rewrite the prompt.")] = False
    safety_tolerance: Annotated[int, Field(ge=0, le=6, description="0 is the strictest, 6 the most permissive.")] = 2
    user: Annotated[
        str | None,
        Field(min_length=1, max_length=256, description="An id of your end user; the provider receives it as it is."),
    ] = None

    @field_validator("prompt", "user")
    @classmethod
    def _storable(cls, text: str | None) -> str | None:
        if text is not None and not is_storable(text):
            raise ValueError("must be text without NUL characters or lone surrogates")
        return text

    @field_validator("aspect_ratio")
    @classmethod
    def _within_range(cls, ratio: str | None) -> str | None:
        if ratio is None:
            return None
        match = _RATIO.fullmatch(ratio)
        if match is None:
            raise ValueError("must be W:H with integers, such as 16:9")
        width, height = int(match[1]), int(match[2])
        if width * 9 > height * 21 or height * 9 > width * 21:
            raise ValueError("must be between 21:9 and 9:21")
        return ratio

    def images(self) -> dict[str, str]:
        """Return the images that are set, by field name, in the order of `IMAGE_FIELDS`."""
        values = ((field, getattr(self, field)) for field in IMAGE_FIELDS)
        return {field: value for field, value in values if value is not None}


def _in_utc(at: datetime) -> datetime:
    try:
        return at.astimezone(UTC)
    except OverflowError:  # the conversion to UTC leaves the range of datetime
        raise ValueError("must be in the years 1 to 9999 in UTC") from None


_FORM_OF_INSTANTS = "must be a time with a time zone, such as 2026-01-31T12:00:00Z"
_AWARE = TypeAdapter(AwareDatetime)


def _read_instant(at: object) -> object:
    """Parse a text. A number is refused, also as text: it could be seconds or milliseconds."""
    if isinstance(at, int | float) or (isinstance(at, str) and _NUMBER.fullmatch(at)):
        raise ValueError(f"{_FORM_OF_INSTANTS}, not a number")
    if not isinstance(at, str):
        return at
    try:
        return _AWARE.validate_python(at)
    except ValidationError:
        raise ValueError(_FORM_OF_INSTANTS) from None


UtcInstant = Annotated[AwareDatetime, BeforeValidator(_read_instant), AfterValidator(_in_utc)]

WebhookForm = Literal["provider", "event"]
WebhookEvent = Literal["submitted", "stored", "failed", "cancelled"]


def _valid_url(url: str) -> str:
    reason = ssrf.url_problem(url)
    if reason is not None:
        raise ValueError(reason)
    return url


def _valid_secret(secret: Secret) -> Secret:
    text = secret.get_secret_value()
    if not text.isprintable() or not text.strip():
        raise ValueError("must be printable text")
    sign.decode_secret(text)  # raises ValueError for `whsec_` without a valid key
    return secret


def _event_list(events: object) -> object:
    """Split a comma-separated string: a form field has no lists."""
    if isinstance(events, str):
        return [name.strip() for name in events.split(",") if name.strip()]
    return events


def _without_duplicates(events: list[WebhookEvent]) -> list[WebhookEvent]:
    return sorted(set(events))


WebhookUrl = Annotated[
    str,
    Field(
        min_length=1,
        max_length=2083,
        description="The https URL that receives the task's webhooks. Failed deliveries are retried for three days.",
    ),
    AfterValidator(_valid_url),
]
WebhookSecret = Annotated[
    Secret,
    Field(
        max_length=1024,
        description="The secret that signs webhooks: `whsec_` followed by base64, or any text. It is never returned.",
    ),
    AfterValidator(_valid_secret),
]
WebhookEvents = Annotated[
    list[WebhookEvent],
    BeforeValidator(_event_list),
    AfterValidator(_without_duplicates),
    Field(description="`submitted` is sent only if listed; the event of the task's final state is always sent."),
]

WEBHOOK_FIELDS = ("webhook_url", "webhook_secret", "webhook_form", "webhook_events")
OPTIONS = ("priority", "deadline_at", "auto_orient", *WEBHOOK_FIELDS)
# Fields that are left out of the digest of a request while they have their default.
_ABSENT_BY_DEFAULT = frozenset({*WEBHOOK_FIELDS, "user", "auto_orient"})


class Webhook(BaseModel):
    """The webhook settings of a task. A field that is not set falls back to the API key's default."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    webhook_url: WebhookUrl | None = None
    webhook_secret: WebhookSecret | None = None
    webhook_form: Annotated[
        WebhookForm | None,
        Field(description="`provider`: as in the provider's callbacks. `event`: with the whole task."),
    ] = None
    webhook_events: WebhookEvents | None = None


class TaskParams(Webhook, Params):
    """The parameters of a task in the native API: the provider's, and the options of Fluxhook itself."""

    priority: Annotated[int, Field(ge=0, le=9, description="Priority in the queue: 9 is the highest.")] = 0
    deadline_at: Annotated[
        UtcInstant | None,
        Field(description="A task that has not been sent to the provider by then fails and costs nothing."),
    ] = None
    auto_orient: Annotated[
        bool, Field(description="Turn input images upright, as their EXIF orientation says, before they are sent.")
    ] = False

    def masked_json(self) -> JsonObject:
        """Return all parameters as JSON values, with secrets masked and without optional fields that are not used."""
        values = self.model_dump(mode="json")
        unused = {name for name in _ABSENT_BY_DEFAULT if getattr(self, name) in (None, False)}
        return {name: value for name, value in values.items() if name not in unused}


# Fields of the provider-compatible API; the path of a request names the model.
COMPATIBLE_FIELDS = (
    *(name for name in Params.model_fields if name != "model"),
    *("webhook_url", "webhook_secret", "auto_orient"),
)


class CompatibleParams(TaskParams):
    """The parameters of a task in the provider-compatible API. Unknown fields are passed on to the provider."""

    model_config = ConfigDict(extra="allow")
