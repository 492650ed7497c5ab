"""One row of the catalog: what is known about a model of the provider."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from app.rules.json_value import JsonObject

ImageStyle = Literal["numbered", "list", "named", "none"]
Status = Literal["current", "preview", "legacy"]
_MANY = 3


@dataclass(frozen=True, slots=True)
class ImageRules:
    """Which members of a request hold images, and the limits of each image.

    `numbered`: one member for each image, filled without a gap. `list`: one member with an array. `named`: members
    with a meaning of their own, such as `mask`.
    """

    style: ImageStyle
    members: tuple[str, ...]
    max: int
    max_bytes: int
    max_pixels: int
    min_side: int  # in pixels; a smaller image causes a warning, because not all clients of the provider agree

    @property
    def names(self) -> str:
        """The members as text, such as `input_image, input_image_2 to input_image_4`."""
        if self.style == "numbered" and len(self.members) > _MANY:
            return f"{self.members[0]}, {self.members[1]} to {self.members[-1]}"
        return ", ".join(self.members)

    @property
    def slots(self) -> tuple[str, ...]:
        """The names under which single images are stored with a task, in order: `images[0]` for a list."""
        if self.style != "list":
            return self.members
        return tuple(f"{member}[{index}]" for member in self.members for index in range(self.max))


@dataclass(frozen=True, slots=True)
class Model:
    """A model. Times are in seconds; `credits` is an estimate of the price in credits of 0.01 USD."""

    id: str
    path: str  # at the provider, such as /v1/flux-2-pro
    kind: Literal["image", "video"]
    status: Status
    note: str
    webhook: bool  # False: the model accepts no webhook_url, so the provider is polled
    strict: bool  # the provider refuses members that it does not know; others are ignored by it
    link_life_s: float
    usual_s: float
    longest_s: float
    images: ImageRules
    slots: int | None  # maximum number of its tasks in flight in one account; None: only the account's own maximum
    # The highest safety_tolerance that the documents allow with input images; None: the same as without.
    edit_tolerance: int | None
    max_output_pixels: int | None  # the most pixels that a result has; None: unknown
    without_images: JsonObject  # sent with these values if the request has no images and does not give them
    # Members that are sent at their default if the client gives none, because the documents disagree on the default.
    send_defaults: tuple[str, ...]
    credits: float | None
    price: str | None
    sure: Literal["high", "medium", "low"]
    sources: tuple[str, ...]
    request: JsonObject  # JSON Schema 2020-12 of an object, complete in itself, without the webhook members

    @property
    def properties(self) -> Mapping[str, JsonObject]:
        """The schema of each member, by name."""
        properties = self.request["properties"]
        assert isinstance(properties, dict)  # noqa: S101 - the loader has checked it
        return properties

    @property
    def required(self) -> tuple[str, ...]:
        required = self.request.get("required", [])
        assert isinstance(required, Sequence)  # noqa: S101 - the loader has checked it
        return tuple(str(name) for name in required)

    @property
    def output_format(self) -> str | None:
        """The file format of a result if the client asks for none, or None if the provider decides."""
        default = self.properties.get("output_format", {}).get("default")
        return default if isinstance(default, str) else None
