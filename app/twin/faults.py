"""Faults on demand: each name is a probability, and a hash decides, so that a run can be repeated.

What strikes a task is drawn once, when it is accepted, from (seed, fault, number of the accepted task). What
strikes a request before any task exists is drawn from the count of such requests. Nothing depends on time.
"""

import hashlib
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Probability = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0)]

# These are drawn per request; every other probability below is drawn per accepted task.
PER_REQUEST = frozenset({"lose_answer_before", "submit_5xx", "submit_429", "status_5xx"})


def fraction(*parts: object) -> float:
    """A number in [0, 1) that depends on the parts alone."""
    digest = hashlib.sha256("|".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:6]) / 2**48


class Faults(BaseModel):
    """Probabilities from 0 to 1, and how strong those are that have a strength (seconds)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = 0

    drop_callback: Probability = 0  # the true callback is never sent
    double_callback: Probability = 0  # sent twice at the same instant
    reorder_callbacks: Probability = 0  # overtaken by later tasks; an interim one arrives after the final one
    reorder_s: Seconds = 2
    delay_callback: Probability = 0
    delay_s: Seconds = 60
    early_callback: Probability = 0  # the task is ready at once and called back before the submit is answered
    forge_callback: Probability = 0  # besides the true one: plausible, wrong content, wrong secret
    unsigned_callback: Probability = 0  # the true one without any proof
    plain_secret_callback: Probability = 0  # the true one with the secret itself in X-Webhook-Secret

    lose_answer_after: Probability = 0  # accepted and charged, then the connection closes unanswered
    lose_answer_before: Probability = 0  # the connection closes unanswered and nothing was accepted
    submit_5xx: Probability = 0  # refused with 500, 502 or 503, nothing accepted
    submit_429: Probability = 0
    status_5xx: Probability = 0

    # These three strike the first download of a task they hit, so that trying again is worth it.
    slow_body: Probability = 0
    slow_s: Seconds = 5
    truncated_body: Probability = 0
    refused_link: Probability = 0
    expired_link: Probability = 0  # issued with only this much life left, whatever the rules say
    near_expiry_s: Seconds = 5

    def strikes(self, name: str, count: int) -> bool:
        """Whether this fault hits request or task number `count`."""
        probability: float = getattr(self, name)
        return probability > 0 and fraction(self.seed, name, count) < probability

    def of_task(self, ordinal: int) -> frozenset[str]:
        """Names of all faults that hit accepted task number `ordinal`."""
        return frozenset(name for name in PER_TASK if self.strikes(name, ordinal))

    def as_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


PER_TASK = frozenset(Faults.model_fields) - PER_REQUEST - {"seed", "reorder_s", "delay_s", "slow_s", "near_expiry_s"}
