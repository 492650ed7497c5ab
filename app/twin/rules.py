"""The provider's behaviour where the contract is silent or contradicts itself, as one frozen value.

In JSON, durations are in seconds and their names end in `_s`; `profile` sets all rules for the form of callbacks.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Duration = Annotated[timedelta, Field(ge=timedelta(0))]

Profile = Literal["a", "b", "c", "none"]

# The three descriptions of a callback in section 4 of the contract, and a reseller that never signs.
PROFILES: Mapping[str, Mapping[str, Any]] = {
    "a": {"signing": "hmac", "payload": "documented", "interim_callbacks": False},
    "b": {"signing": "shared_secret", "payload": "documented", "interim_callbacks": False},
    "c": {"signing": "shared_secret", "payload": "field", "interim_callbacks": True},
    "none": {"signing": "none", "payload": "documented", "interim_callbacks": False},
}


class Rules(BaseModel):
    """Rules apply to the tasks that are accepted under them; a change does not affect earlier tasks."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, ser_json_timedelta="float")

    # The limits of active tasks of an account: by model, and in total. Finished tasks do not count.
    slots: dict[str, int] = {"flux-kontext-pro": 24, "flux-kontext-max": 6}
    account_slots: int = 24
    prices: dict[str, float] = {"flux-kontext-pro": 4, "flux-kontext-max": 8}
    # The cost that polls and final callbacks state, and that is charged, instead of the price in the submit answer.
    settled_cost: Annotated[float, Field(ge=0)] | None = None
    # The initial balance of each account. 1 credit = 0.01 USD.
    credits: float = 10_000

    ready_after: Annotated[Duration, Field(alias="ready_after_s")] = timedelta(seconds=2)
    # Counted from completion, not from delivery.
    link_life: Annotated[Duration, Field(alias="link_life_s")] = timedelta(minutes=10)
    # How long a finished task can be polled; then it is "Task not found". No source states this.
    fetchable_for: Annotated[Duration, Field(alias="fetchable_for_s")] = timedelta(hours=1)

    # BFL itself puts the secret into a header; only one early guide describes an HMAC.
    signing: Literal["hmac", "shared_secret", "none"] = "shared_secret"
    payload: Literal["documented", "field"] = "documented"
    # One "processing" callback half-way. Only the "field" payload has it.
    interim_callbacks: bool = False
    moderated_called_back: bool = True
    retries: Annotated[tuple[Duration, ...], Field(alias="retries_s")] = (
        timedelta(seconds=1),
        timedelta(seconds=5),
        timedelta(seconds=30),
    )
    delivery_timeout: Annotated[Duration, Field(alias="delivery_timeout_s")] = timedelta(seconds=30)

    # The scheme and host of links to images (None: the origin that the caller used).
    delivery_origin: str | None = None
    # How many redirects precede the answer to a poll and to a download, and the origin that they lead to (None: the
    # origin that the caller used).
    status_redirects: Annotated[int, Field(ge=0)] = 0
    delivery_redirects: Annotated[int, Field(ge=0)] = 0
    redirect_origin: str | None = None

    # The schema says no, the provider's example of the hybrid approach says yes.
    polling_url_with_webhook: bool = False
    # "Reasoning" and "Generating" in place of the later part of "Pending".
    newer_statuses: bool = False
    # HTTP status of the poll answer for a task that failed or was moderated.
    failed_http: Literal[200, 422, 503] = 200
    # "detail" is the form seen in practice; "skills" has `error`, `message`, `details`, and 401 for a bad key.
    errors: Literal["detail", "skills"] = "detail"
    # Every API key is refused, as after the key was revoked.
    keys_revoked: bool = False
    # Retry-After and X-RateLimit-* on a 429. Only one source mentions them.
    rate_limit_headers: bool = False

    # The OpenAPI document says png, the guides say jpeg.
    default_format: Literal["jpeg", "png", "webp"] = "png"
    # The area of an output in units of 1024 x 1024 pixels; small for load tests.
    megapixels: Annotated[float, Field(gt=0, le=4)] = 1.0

    def changed(self, changes: Mapping[str, Any]) -> "Rules":
        """Return these rules with the changes from a JSON object. Raises `pydantic.ValidationError`."""
        rest = dict(changes)
        profile = rest.pop("profile", None)
        if profile is None:
            return Rules.model_validate(self.as_json() | rest)
        # An unknown profile remains in the values, so validation refuses it.
        preset = PROFILES.get(str(profile), {"profile": profile})
        return Rules.model_validate(self.as_json() | dict(preset) | rest)

    def as_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json", by_alias=True)


def preset(profile: Profile) -> Rules:
    """Return the default rules with one callback profile: "a", "b", "c" or "none"."""
    return Rules().changed({"profile": profile})
