"""What a probe found, as one mutable value that is complete at each step: Ctrl-C leaves what is known."""

from dataclasses import asdict, dataclass, field
from typing import Any

from app import __version__
from app.cli.probing.shape import Shape

FORMAT = 1


@dataclass(slots=True)
class Redirect:
    """A redirect that an answer made. `followed`: with the API key, or because none is needed."""

    status: int
    host: str
    followed: bool


@dataclass(slots=True)
class Answer:
    """An answer of the provider. Times are in seconds since the task was submitted."""

    after_s: float
    took_s: float
    status: int | None  # None: no answer
    says: str | None = None  # the status of the task, in the provider's words
    members: Shape = ""
    headers: list[str] = field(default_factory=list)  # names
    redirects: list[Redirect] = field(default_factory=list)
    cost: float | None = None
    problem: str | None = None
    times: int = 1  # answers in a row that were alike


@dataclass(slots=True)
class CallbackSeen:
    """A request to the listener."""

    after_s: float
    answered: int
    method: str
    headers: list[str]  # names, in their order; a name that came twice is here twice
    content_type: str | None
    user_agent: str | None
    verdict: str  # as Fluxhook would judge it
    proofs: list[str]
    secret_in_body: bool
    says: str | None
    members: Shape
    same_body_as_before: bool


@dataclass(slots=True)
class Link:
    """The link to the image."""

    scheme: str
    host: str
    query: list[str]  # names
    lives_s: float | None  # from the answer that named it to the expiry in it
    status: int | None = None
    headers: list[str] = field(default_factory=list)
    media_type: str | None = None
    bytes: int | None = None
    redirects: list[Redirect] = field(default_factory=list)
    problem: str | None = None


@dataclass(slots=True)
class AfterExpiry:
    """What is left after the expiry of the link."""

    waited_s: float
    link_status: int | None
    poll: Answer
    another_link: bool


@dataclass(slots=True)
class Report:
    """Everything that a probe found. It holds no secret, no prompt, no id and no link."""

    at: str
    provider: str
    host: str
    model: str
    price_credits: float | None
    public_address: bool
    version: str = __version__
    format: int = FORMAT
    complete: bool = False
    stopped: str | None = None
    submit: Answer | None = None
    polls: list[Answer] = field(default_factory=list)
    callbacks: list[CallbackSeen] = field(default_factory=list)
    link: Link | None = None
    after_expiry: AfterExpiry | None = None
    spent_credits: float | None = None  # by the balance before and after

    def as_json(self) -> dict[str, Any]:
        return asdict(self)
