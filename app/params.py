"""What a request for a task holds: parameters of the provider, which the catalog checks, and options of Fluxhook."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)
from pydantic import SecretStr as Secret

from app.catalog import Model
from app.rules.json_value import JsonObject
from app.security import sign, ssrf

_NUMBER = re.compile(r"\s*[+-]?[\d._]+(e[+-]?\d+)?\s*", re.IGNORECASE)


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
# Names that are left out of the digest of a request while they have their default.
_ABSENT_BY_DEFAULT = frozenset({*WEBHOOK_FIELDS, "auto_orient"})
# Members that the digest holds as null if they are not given, as it did when every model had them.
_NULL_BY_DEFAULT = ("input_image", "input_image_2", "input_image_3", "input_image_4", "seed", "aspect_ratio")


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


class TaskOptions(Webhook):
    """The options of Fluxhook itself, beside the parameters of the provider."""

    priority: Annotated[int, Field(ge=0, le=9, description="Priority in the queue: 9 is the highest.")] = 0
    deadline_at: Annotated[
        UtcInstant | None,
        Field(description="A task that has not been sent to the provider by then fails and costs nothing."),
    ] = None
    auto_orient: Annotated[
        bool, Field(description="Turn input images upright, as their EXIF orientation says, before they are sent.")
    ] = False


OPTIONS = tuple(TaskOptions.model_fields)
# The options of the provider-compatible API.
COMPATIBLE_OPTIONS = ("webhook_url", "webhook_secret", "auto_orient")


@dataclass(frozen=True, slots=True)
class TaskParams:
    """A request for a task, checked against the row of its model. Images are not decoded here; `submit` checks them.

    `parameters`: what the provider gets, without images. `images`: by slot (see `ImageRules.slots`), base64 or a URL.
    """

    model: Model
    parameters: JsonObject = field(repr=False)
    images: Mapping[str, str] = field(default_factory=dict, repr=False)
    options: TaskOptions = field(default_factory=TaskOptions)
    warnings: tuple[str, ...] = ()

    def masked_json(self) -> JsonObject:
        """Return all parameters as JSON values, with secrets masked and without optional fields that are not used."""
        options = self.options.model_dump(mode="json")
        unused = {name for name in _ABSENT_BY_DEFAULT if options[name] in (None, False)}
        return {
            "model": self.model.id,
            **{name: None for name in _NULL_BY_DEFAULT if name in self.model.properties},
            **self.parameters,
            **self.images,
            **{name: value for name, value in options.items() if name not in unused},
        }
