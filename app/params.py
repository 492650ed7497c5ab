"""What a request for a task holds: parameters of the provider, which the catalog checks, and options of Fluxhook."""

import json
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
from app.rules.json_value import JsonObject, is_storable
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

_MAX_USER = 256  # characters
_MAX_PAIRS, _MAX_KEY, _MAX_VALUE = 16, 64, 512  # of metadata; the lengths are in characters
_FORM_OF_METADATA = "must be an object of texts"


def _storable(text: str) -> str:
    if not is_storable(text):
        raise ValueError("must be text without NUL characters or lone surrogates")
    return text


def _read_metadata(pairs: object) -> object:
    """Check metadata as a whole, so that no error names or repeats one of its keys. A form field holds JSON."""
    if isinstance(pairs, str):
        try:
            pairs = json.loads(pairs)
        except (ValueError, RecursionError):
            raise ValueError(f"{_FORM_OF_METADATA} as JSON") from None
    if pairs is None:
        return None
    if not isinstance(pairs, dict) or not all(isinstance(text, str) for pair in pairs.items() for text in pair):
        raise ValueError(_FORM_OF_METADATA)
    if len(pairs) > _MAX_PAIRS:
        raise ValueError(f"must have at most {_MAX_PAIRS} pairs")
    if not all(1 <= len(key) <= _MAX_KEY for key in pairs):
        raise ValueError(f"each key must have 1 to {_MAX_KEY} characters")
    if not all(len(value) <= _MAX_VALUE for value in pairs.values()):
        raise ValueError(f"each value must have at most {_MAX_VALUE} characters")
    for pair in pairs.items():
        _storable("".join(pair))
    return pairs or None


User = Annotated[
    str,
    Field(
        min_length=1,
        max_length=_MAX_USER,
        description="An id of your end user. It is recorded with the task, and passed on to models that take it.",
    ),
    AfterValidator(_storable),
]
Metadata = Annotated[
    dict[
        Annotated[str, Field(min_length=1, max_length=_MAX_KEY)],
        Annotated[str, Field(max_length=_MAX_VALUE)],
    ]
    | None,
    BeforeValidator(_read_metadata),
    Field(
        description=f"Up to {_MAX_PAIRS} pairs of texts of your own, such as an order number. They are recorded with "
        "the task, and the provider does not get them. In a form: one field with a JSON object.",
        json_schema_extra={"maxProperties": _MAX_PAIRS},
    ),
]

WEBHOOK_FIELDS = ("webhook_url", "webhook_secret", "webhook_form", "webhook_events")
# Names that are left out of the digest of a request while they have their default.
_ABSENT_BY_DEFAULT = frozenset({*WEBHOOK_FIELDS, "auto_orient", "user", "metadata"})
# Members that the digest holds as null if they are not given, as it did when every model had them.
_NULL_BY_DEFAULT = ("input_image", "input_image_2", "input_image_3", "input_image_4", "seed", "aspect_ratio")


class Webhook(BaseModel):
    """The webhook settings of a task. A field that is not set has the default of the key or application."""

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
    user: User | None = None
    metadata: Metadata = None


OPTIONS = tuple(TaskOptions.model_fields)
# The options of the provider-compatible API.
COMPATIBLE_OPTIONS = ("webhook_url", "webhook_secret", "auto_orient")


def recorded_user(given: object) -> str | None:
    """Return the end user to be recorded, or None if this is no valid id of one."""
    return given if isinstance(given, str) and 1 <= len(given) <= _MAX_USER and is_storable(given) else None


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

    @property
    def user(self) -> str | None:
        """The end user to be recorded: the option or, where `user` is a member of the model alone, its value.

        A value that is no valid id is not recorded; only a model that is not in the catalog accepts one.
        """
        return recorded_user(self.options.user or self.parameters.get("user"))

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
