"""The interface of provider adapters, and the published properties of a provider as data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import IO, Protocol

from app.rules.json_value import JsonObject
from app.rules.task import Report
from app.security.verify import SigningProfile

# The assumed lifetime of a link that does not state its expiry (BFL's integration guidelines).
LINK_LIFE = timedelta(minutes=10)
_MARGIN = timedelta(seconds=5)  # between the record of a submission and its request


@dataclass(frozen=True, slots=True)
class ProviderSpec:
    """The published properties of a provider. Its adapter names the source of each value."""

    name: str
    result_hosts: tuple[str, ...]  # usual hosts of results; others may occur
    api_hosts: tuple[str, ...]  # besides the configured origin, the hosts that may receive the API key
    slots: Mapping[str, int]  # maximum number of tasks in flight, under "account"; the catalog has those of models
    # Further hosts to poll if the host that took a task does not know it.
    status_urls: tuple[str, ...] = ()
    # The waits between the deliveries of one callback, and the time limit of each delivery.
    callback_waits: tuple[timedelta, ...] = (
        timedelta(seconds=1),
        timedelta(seconds=5),
        timedelta(seconds=30),
    )
    callback_deadline: timedelta = timedelta(seconds=30)
    submit_deadline: timedelta = timedelta(seconds=60)  # for the whole exchange
    status_deadline: timedelta = timedelta(seconds=20)
    signing: SigningProfile = field(default_factory=SigningProfile)

    @property
    def answer_window(self) -> timedelta:
        """The time after a submission was recorded as sent in which its answer may still arrive."""
        return self.submit_deadline + _MARGIN

    @property
    def callback_window(self) -> timedelta:
        """The time after completion in which a callback may still arrive."""
        deliveries = len(self.callback_waits) + 1
        return sum(self.callback_waits, timedelta()) + deliveries * self.callback_deadline


@dataclass(frozen=True, slots=True, repr=False)
class SubmitRequest:
    """A request to start a task: the path of its model, and every member that goes into its JSON.

    `images`: by member, and by `member[0]`, `member[1]` and so on for a member with a list. They are read to the end
    while the request is sent.
    """

    path: str  # as at BFL, such as /v1/flux-2-pro
    params: JsonObject
    images: Mapping[str, IO[bytes]]
    webhook_url: str | None
    webhook_secret: str | None


@dataclass(frozen=True, slots=True)
class Reference:
    """The values that identify a submitted task in a poll."""

    provider_id: str
    polling_url: str | None


@dataclass(frozen=True, slots=True, repr=False)
class ProviderResponse:
    """A raw response of the provider and its meaning. `http_status` is None if no response arrived."""

    report: Report
    http_status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


class Provider(Protocol):
    """A provider adapter. Failures of the provider or the network are ProviderResponses, never exceptions."""

    @property
    def spec(self) -> ProviderSpec: ...

    async def submit(self, submit_request: SubmitRequest) -> ProviderResponse: ...

    async def fetch(self, reference: Reference) -> ProviderResponse: ...

    async def credits(self) -> ProviderResponse:
        """Fetch the account's balance; `messages.read_credits` reads it from the body."""
        ...

    async def reachable(self) -> str | None:
        """Return None if the provider answers and accepts the API key, else a description of the problem."""
        ...
