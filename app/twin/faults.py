"""Injected faults. Each fault has a probability, and a hash decides where it occurs, so that runs are repeatable.

The faults of a task are drawn once, when it is accepted, from (seed, fault, number of the accepted task). Faults of a
request that occur before a task exists are drawn from the number of the request instead. Nothing depends on time.
"""

import hashlib
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Probability = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0)]

# Drawn per request; all other probabilities below are drawn per accepted task.
PER_REQUEST = frozenset(
    {"lose_answer_before", "submit_5xx", "submit_429", "submit_gateway", "status_5xx", "status_gateway"}
)


def fraction(*parts: object) -> float:
    """Return a number in [0, 1) that depends only on the parts."""
    digest = hashlib.sha256("|".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:6]) / 2**48


class Faults(BaseModel):
    """Probabilities from 0 to 1, and the durations (`_s`, in seconds) of the faults that have one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = 0

    drop_callback: Probability = 0  # the final callback is never sent
    double_callback: Probability = 0  # sent twice at the same instant
    reorder_callbacks: Probability = 0  # overtaken by later tasks; an interim callback follows the final one
    reorder_s: Seconds = 2
    delay_callback: Probability = 0
    delay_s: Seconds = 60
    early_callback: Probability = 0  # ready at once; the callback precedes the answer to the submit request
    forge_callback: Probability = 0  # an additional, plausible callback with wrong content and a wrong secret
    unsigned_callback: Probability = 0  # the final callback without any proof
    plain_secret_callback: Probability = 0  # the final callback with the plain secret in X-Webhook-Secret

    lose_answer_after: Probability = 0  # accepted and charged; the connection closes without an answer
    lose_answer_before: Probability = 0  # not accepted; the connection closes without an answer
    submit_5xx: Probability = 0  # not accepted; refused with 500, 502 or 503
    submit_429: Probability = 0
    submit_gateway: Probability = 0  # not accepted; a gateway answers with gateway_status and a page in HTML
    status_5xx: Probability = 0
    status_gateway: Probability = 0  # a poll is answered by a gateway with gateway_status and a page in HTML
    # Such as 403, 404, 405, 521 or 530; a redirect leads to a path that does not exist.
    gateway_status: Annotated[int, Field(ge=300, le=599)] = 403

    # slow_body, truncated_body and refused_link affect only the first download of a task: a retry succeeds.
    slow_body: Probability = 0
    slow_s: Seconds = 5
    truncated_body: Probability = 0
    refused_link: Probability = 0
    expired_link: Probability = 0  # the link expires after near_expiry_s, regardless of the rules
    near_expiry_s: Seconds = 5

    def strikes(self, name: str, count: int) -> bool:
        """Whether this fault affects the request or task with the number `count`."""
        probability: float = getattr(self, name)
        return probability > 0 and fraction(self.seed, name, count) < probability

    def of_task(self, ordinal: int) -> frozenset[str]:
        """Return the names of all faults of the accepted task with the number `ordinal`."""
        return frozenset(name for name in PER_TASK if self.strikes(name, ordinal))

    def as_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


_PARAMETERS = frozenset({"seed", "reorder_s", "delay_s", "slow_s", "near_expiry_s", "gateway_status"})
PER_TASK = frozenset(Faults.model_fields) - PER_REQUEST - _PARAMETERS
