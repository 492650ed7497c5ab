"""One task of the provider. Its outcome is decided when it is accepted, and becomes visible in time.

Whole words in the prompt, in any case, decide the outcome:

    forbidden        Request Moderated: nothing is generated or charged; GPTProto refuses it with 503
    unsafe result    Content Moderated: generated and charged, but withheld
    invalid image    Error, `invalid_image`, charged
    fail             Error, `internal_error`, charged
    never finishes   stays Pending and keeps its slot
"""

import re
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal

from app.twin.inputs import Source
from app.twin.pictures import Format, Size


class Outcome(StrEnum):
    READY = "Ready"
    ERROR = "Error"
    REQUEST_MODERATED = "Request Moderated"
    CONTENT_MODERATED = "Content Moderated"
    NEVER = "Pending"


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of a task. `error` is a code from the skills guide; `reason` is text for people."""

    outcome: Outcome
    error: str | None = None
    reason: str | None = None


_ENDINGS = (
    ("forbidden", Ending(Outcome.REQUEST_MODERATED, "content_policy_violation", "Derivative Works Filter")),
    ("unsafe result", Ending(Outcome.CONTENT_MODERATED, "content_policy_violation", "NSFW")),
    ("invalid image", Ending(Outcome.ERROR, "invalid_image", "The input image could not be used")),
    ("fail", Ending(Outcome.ERROR, "internal_error", "Generation failed")),
    ("never finishes", Ending(Outcome.NEVER)),
)
TRIGGER_WORDS = tuple(words for words, _ in _ENDINGS)
TRIGGERS: tuple[tuple[re.Pattern[str], Ending], ...] = tuple(
    (re.compile(rf"\b{words}\b", re.IGNORECASE), ending) for words, ending in _ENDINGS
)

MODERATED = frozenset({Outcome.REQUEST_MODERATED, Outcome.CONTENT_MODERATED})


def ending_of(prompt: str) -> Ending:
    return next((ending for words, ending in TRIGGERS if words.search(prompt)), Ending(Outcome.READY))


CallbackKind = Literal["true", "double", "early", "unsigned", "plain_secret", "interim", "forged"]


@dataclass(frozen=True, slots=True)
class CallbackAttempt:
    """One attempt to send a callback: the HTTP status of the answer, or the name of the error."""

    at: datetime
    kind: CallbackKind
    attempt: int
    answered: int | None
    error: str | None


@dataclass(slots=True, eq=False)
class Task:
    ordinal: int
    id: str
    account: str
    model: str
    origin: str  # scheme and host of the submit request, used for links in callbacks
    prompt: str
    seed: int
    output_format: Format
    size: Size
    webhook_url: str | None
    webhook_secret: str | None
    cost: float  # as the answer to the submit request states it
    settled_cost: float | None  # as polls and callbacks state it; None: they state no cost
    ending: Ending
    faults: frozenset[str]
    accepted_at: datetime
    ready_at: datetime | None  # None: never
    link_ends_at: datetime | None
    sources: tuple[Source, ...]
    input_digests: tuple[str, ...]
    input_megapixels: float

    answer_lost: bool = False
    callbacks_withheld: bool = False
    callbacks: list[CallbackAttempt] = field(default_factory=list)
    downloads: int = 0
    sha256: str | None = None  # of the image, once it has been rendered

    def outcome_at(self, now: datetime) -> Outcome | None:
        """Return the outcome, or None while the task is active."""
        return self.ending.outcome if self.ready_at is not None and self.ready_at <= now else None

    def progress_at(self, now: datetime) -> float:
        """Return the progress from 0 to 1. A task that never finishes stays at one half."""
        if self.ready_at is None:
            return 0.5
        span = (self.ready_at - self.accepted_at).total_seconds()
        return min(1.0, round((now - self.accepted_at).total_seconds() / span, 2)) if span else 1.0

    @property
    def charged(self) -> float:
        return self.cost if self.settled_cost is None else self.settled_cost

    @property
    def output_megapixels(self) -> float:
        return round(self.size[0] * self.size[1] / 1e6, 2)
