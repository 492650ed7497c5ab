"""What a task may ask for: every parameter of the Kontext request, checked before money is spent.

The rules are the providers' published ones (OpenAPI document of the BFL API, Kontext guides).
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, field_validator
from pydantic import SecretStr as Secret

from app.security import sign, ssrf

IMAGE_FIELDS = ("input_image", "input_image_2", "input_image_3", "input_image_4")

_RATIO = re.compile(r"([1-9][0-9]{0,3}):([1-9][0-9]{0,3})")

ImageInput = Annotated[
    str | None,
    Field(min_length=1, description="Base64, a `data:` URL, or an http(s) URL. JPEG, PNG or WebP."),
]


class Params(BaseModel):
    """The parameters of one task, checked in themselves; the images are opened later."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    model: Literal["flux-kontext-pro", "flux-kontext-max"] = "flux-kontext-pro"
    prompt: Annotated[
        str,
        # The provider states no maximum. Ours keeps a pasted file out of the database.
        Field(max_length=65_536, pattern=r"\S", description="What to draw, or what to change."),
    ]
    input_image: ImageInput = None
    input_image_2: ImageInput = None
    input_image_3: ImageInput = None
    input_image_4: ImageInput = None
    seed: Annotated[
        int | None,
        Field(
            ge=-(2**63),
            le=2**63 - 1,
            description="The same seed and prompt give the same image, more or less.",
        ),
    ] = None
    aspect_ratio: Annotated[
        str | None, Field(max_length=9, description="`W:H`, between 21:9 and 9:21.", examples=["16:9"])
    ] = None
    # The provider's own default is png in one of its documents and jpeg in another: ours is always sent.
    output_format: Literal["png", "jpeg", "webp"] = "png"
    prompt_upsampling: Annotated[bool, Field(description="Let the provider rewrite the prompt.")] = False
    safety_tolerance: Annotated[int, Field(ge=0, le=6, description="0 is strict, 6 is lax.")] = 2

    @field_validator("prompt")
    @classmethod
    def _storable(cls, prompt: str) -> str:
        # PostgreSQL text cannot hold NUL, and UTF-8 has no form for a lone surrogate.
        if "\0" in prompt or any("\ud800" <= character <= "\udfff" for character in prompt):
            raise ValueError("must be text without NUL characters or lone surrogates")
        return prompt

    @field_validator("aspect_ratio")
    @classmethod
    def _within_range(cls, ratio: str | None) -> str | None:
        if ratio is None:
            return None
        match = _RATIO.fullmatch(ratio)
        if match is None:
            raise ValueError("must be W:H in whole numbers, such as 16:9")
        width, height = int(match[1]), int(match[2])
        if width * 9 > height * 21 or height * 9 > width * 21:
            raise ValueError("must be between 21:9 and 9:21")
        return ratio

    def images(self) -> dict[str, str]:
        """The images that were given, by field, in order."""
        given = ((field, getattr(self, field)) for field in IMAGE_FIELDS)
        return {field: value for field, value in given if value is not None}


def _in_utc(at: datetime) -> datetime:
    try:
        return at.astimezone(UTC)
    except OverflowError:  # its zone pushes it out of the calendar
        raise ValueError("must lie in the years 1 to 9999 of UTC") from None


InstantGiven = Annotated[AwareDatetime, AfterValidator(_in_utc)]

WebhookForm = Literal["provider", "event"]
WebhookEvent = Literal["submitted", "stored", "failed", "cancelled"]


def _named(url: str) -> str:
    reason = ssrf.unusable(url)
    if reason is not None:
        raise ValueError(reason)
    return url


def _usable(secret: Secret) -> Secret:
    text = secret.get_secret_value()
    if not text.isprintable() or not text.strip():
        raise ValueError("must be printable text")
    sign.key_of(text)  # raises ValueError for a `whsec_` that is none
    return secret


def _listed(events: object) -> object:
    """A form has no lists: there the names stand in one field, with commas between them."""
    if isinstance(events, str):
        return [name.strip() for name in events.split(",") if name.strip()]
    return events


def _each_once(events: list[WebhookEvent]) -> list[WebhookEvent]:
    return sorted(set(events))


WebhookUrl = Annotated[
    str,
    Field(min_length=1, max_length=2083, description="Where to tell of the task; https, with retries for three days."),
    AfterValidator(_named),
]
WebhookSecret = Annotated[
    Secret,
    Field(max_length=1024, description="What webhooks are signed with: `whsec_` and base64, or any text. Never shown."),
    AfterValidator(_usable),
]
WebhookEvents = Annotated[
    list[WebhookEvent],
    BeforeValidator(_listed),
    AfterValidator(_each_once),
    Field(description="`submitted` is sent when it is listed; the final one of the others always is."),
]

WEBHOOK_FIELDS = ("webhook_url", "webhook_secret", "webhook_form", "webhook_events")
OPTIONS = ("priority", "deadline_at", *WEBHOOK_FIELDS)


class Webhook(BaseModel):
    """Where to tell of a task, and how; what is not given is left to the API key's own choice."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    webhook_url: WebhookUrl | None = None
    webhook_secret: WebhookSecret | None = None
    webhook_form: Annotated[
        WebhookForm | None, Field(description="`provider`: as the provider calls back. `event`: with the whole task.")
    ] = None
    webhook_events: WebhookEvents | None = None


class TaskParams(Webhook, Params):
    """A task of the native API: the provider's parameters, and what Fluxhook itself is to do with it."""

    priority: Annotated[int, Field(ge=0, le=9, description="9 goes before 0 when tasks have to queue.")] = 0
    deadline_at: Annotated[
        InstantGiven | None,
        Field(description="A task that the provider was not asked for by then fails, and costs nothing."),
    ] = None

    def asked(self) -> Mapping[str, Any]:
        """Every parameter as JSON has it, secrets blanked; a webhook field that was not given is not there."""
        everything = self.model_dump(mode="json")
        return {name: value for name, value in everything.items() if name not in WEBHOOK_FIELDS or value is not None}
