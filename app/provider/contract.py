"""What every provider adapter offers, and what a provider promises, as data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import IO, Any, Protocol

from app.rules.task import Report
from app.security.verify import SigningProfile

# A link that does not say itself when it dies is taken to live this long (BFL's integration guidelines).
LINK_LIFE = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class ProviderSpec:
    """What is published about a provider; the sources stand beside the values in its adapter."""

    name: str
    result_hosts: tuple[str, ...]
    slots: Mapping[str, int]  # tasks in flight for each model, and for "account" in all
    # Where else a task may be known when the host that took it knows nothing of it.
    status_urls: tuple[str, ...] = ()
    # How long a provider goes on calling: its waits, and its patience with each delivery.
    callback_waits: tuple[timedelta, ...] = (
        timedelta(seconds=1),
        timedelta(seconds=5),
        timedelta(seconds=30),
    )
    callback_deadline: timedelta = timedelta(seconds=30)
    submit_deadline: timedelta = timedelta(seconds=60)
    status_deadline: timedelta = timedelta(seconds=20)
    # Most tasks take 5 to 15 seconds. No source states a longest time; past this one nobody has seen an answer.
    slowest_task: timedelta = timedelta(minutes=10)
    max_image_bytes: int = 20 * 1024 * 1024
    max_image_pixels: int = 20_000_000
    signing: SigningProfile = field(default_factory=SigningProfile)

    @property
    def callback_window(self) -> timedelta:
        """How long after completion a callback may still arrive."""
        deliveries = len(self.callback_waits) + 1
        return sum(self.callback_waits, timedelta()) + deliveries * self.callback_deadline


@dataclass(frozen=True, slots=True, repr=False)
class SubmitRequest:
    """One attempt to submit a task: every field that goes into the request."""

    model: str
    params: Mapping[str, Any]
    images: Mapping[str, IO[bytes]]  # read to their ends while it is sent
    webhook_url: str | None
    webhook_secret: str | None


@dataclass(frozen=True, slots=True)
class Reference:
    """What a submitted task can be asked for by."""

    provider_id: str
    polling_url: str | None


@dataclass(frozen=True, slots=True, repr=False)
class ProviderResponse:
    """What came back, raw, and what it says. `http_status` is None when nothing came."""

    report: Report
    http_status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


class Provider(Protocol):
    """Never raises for what a provider or the network does: that is an Answer too."""

    @property
    def spec(self) -> ProviderSpec: ...

    async def submit(self, order: SubmitRequest) -> ProviderResponse: ...

    async def fetch(self, reference: Reference) -> ProviderResponse: ...

    async def credits(self) -> ProviderResponse:
        """What is left on the account, for `messages.read_credits`."""
        ...

    async def reachable(self) -> str | None:
        """None when the provider answers and takes our key, else what is wrong, in plain words."""
        ...
