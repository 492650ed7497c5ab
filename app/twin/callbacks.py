"""Plans the callbacks of a task with their times and proofs, once, when the task is accepted. No I/O."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from app.security.sign import bfl_signature
from app.twin import messages
from app.twin.faults import Faults, fraction
from app.twin.rules import Rules
from app.twin.task import MODERATED, CallbackKind, Task

Signing = Literal["hmac", "shared_secret", "none"]

LATE_INTERIM = timedelta(milliseconds=500)  # delay of a reordered "processing" callback after the final one


@dataclass(frozen=True, slots=True, eq=False)
class Callback:
    """A planned callback. Each attempt sends the same bytes; `retries` are the waits after each failure."""

    task: Task
    kind: CallbackKind
    due_at: datetime
    body: bytes
    headers: Mapping[bytes, bytes]
    retries: tuple[timedelta, ...] = ()
    attempt: int = 1


def proof(signing: Signing, secret: str | None, body: bytes) -> dict[bytes, bytes]:
    """Return the header that proves a callback; empty without a secret."""
    if not secret or signing == "none":
        return {}
    if signing == "shared_secret":
        return {b"X-Webhook-Secret": secret.encode()}
    return {b"X-BFL-Signature": bfl_signature(secret, body).encode()}


def plan(task: Task, sample: str, rules: Rules, faults: Faults) -> list[Callback]:
    """Return all callbacks of a task; empty if it has no webhook URL. `sample` is the link to its image."""
    if task.webhook_url is None:
        return []
    return [*_interim(task, rules), *_final(task, sample, rules, faults)]


def withheld(task: Task, rules: Rules) -> bool:
    """Whether the final callback is never sent."""
    silent = task.ending.outcome in MODERATED and not rules.moderated_called_back
    return "drop_callback" in task.faults or silent


def _interim(task: Task, rules: Rules) -> Iterator[Callback]:
    if not rules.interim_callbacks or "early_callback" in task.faults or "reorder_callbacks" in task.faults:
        return
    yield _interim_at(task, task.accepted_at + rules.ready_after / 2, rules)


def _interim_at(task: Task, due_at: datetime, rules: Rules) -> Callback:
    body = messages.interim_callback(task)
    return Callback(task, "interim", due_at, body, proof(rules.signing, task.webhook_secret, body), rules.retries)


def _final(task: Task, sample: str, rules: Rules, faults: Faults) -> Iterator[Callback]:
    if task.ready_at is None:
        return
    due_at = task.ready_at + _delay(task, faults)
    if "forge_callback" in task.faults:
        yield _forged(task, due_at, rules)
    if withheld(task, rules):
        return
    kind, signing = _kind_and_signing(task, rules)
    body = messages.final_callback(task, sample, rules)
    true = Callback(task, kind, due_at, body, proof(signing, task.webhook_secret, body), rules.retries)
    yield true
    if "double_callback" in task.faults:
        yield Callback(task, "double", due_at, body, true.headers, rules.retries)
    if "reorder_callbacks" in task.faults:
        yield _interim_at(task, due_at + LATE_INTERIM, rules)


def _delay(task: Task, faults: Faults) -> timedelta:
    """Return the time between the end of the task and its final callback."""
    if "early_callback" in task.faults:
        return timedelta(0)
    late = faults.delay_s if "delay_callback" in task.faults else 0
    if "reorder_callbacks" in task.faults:
        # The delay differs by task, so that reordered callbacks overtake each other, too.
        late += faults.reorder_s * (0.5 + fraction(faults.seed, "reorder_s", task.ordinal) / 2)
    return timedelta(seconds=late)


def _kind_and_signing(task: Task, rules: Rules) -> tuple[CallbackKind, Signing]:
    if "unsigned_callback" in task.faults:
        return "unsigned", "none"
    if "plain_secret_callback" in task.faults:
        return "plain_secret", "shared_secret"
    return ("early" if "early_callback" in task.faults else "true"), rules.signing


def _forged(task: Task, due_at: datetime, rules: Rules) -> Callback:
    body = messages.forged_callback(task, rules)
    return Callback(task, "forged", due_at, body, proof(rules.signing, "a guess", body))
