"""The request of a task as it is recorded and sent: parameters of the provider, and references to stored images."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from app.rules.json_value import JsonObject, JsonValue


@dataclass(frozen=True, slots=True)
class StoredImage:
    """A stored input image as recorded with the task: a reference to its bytes, and the facts from its header."""

    field: str
    store_key: str
    sha256: str
    bytes: int
    media_type: str
    width: int
    height: int


_IMAGE_MEMBERS = tuple(member.name for member in fields(StoredImage))


@dataclass(frozen=True, slots=True)
class TaskRequest:
    """What the provider is asked for, without the model's id.

    `parameters`: by the provider's names; models have different ones. `images`: in the order of their fields.
    `path` and `webhook` state how the model is asked, for a task whose model has left the catalog.
    """

    parameters: JsonObject = field(repr=False)  # with the prompt, which no log may show
    images: tuple[StoredImage, ...] = ()
    path: str | None = None  # at the provider; None: /v1/ and the model's id
    webhook: bool = True  # whether the model accepts a webhook

    @property
    def prompt(self) -> str:
        """The prompt; empty for a model that needs none."""
        return str(self.parameters.get("prompt") or "")

    @property
    def seed(self) -> int | None:
        """The requested seed."""
        seed = self.parameters.get("seed")
        return seed if isinstance(seed, int) else None

    def as_json(self) -> dict[str, JsonValue]:
        """Return the form in which requests are stored: the parameters, with `images` and `model` beside them.

        No parameter has one of these two names. `model` is stored only if it states something unusual.
        """
        images: list[JsonValue] = [asdict(image) for image in self.images]
        if self.path is None and self.webhook:
            return {**self.parameters, "images": images}
        return {**self.parameters, "images": images, "model": {"path": self.path, "webhook": self.webhook}}

    @classmethod
    def of_json(cls, stored: Mapping[str, Any]) -> "TaskRequest":
        """Read what `as_json` returns. Other members of an image are ignored: a later version may have stored them."""
        parameters = {name: value for name, value in stored.items() if name not in {"images", "model"}}
        model = stored.get("model", {})
        images = ({name: image[name] for name in _IMAGE_MEMBERS} for image in stored.get("images", ()))
        return cls(
            parameters,
            tuple(StoredImage(**image) for image in images),
            path=model.get("path"),
            webhook=model.get("webhook", True),
        )
