"""Receive a callback: verify it, store and settle it, and answer once that is durable. This is the hot path.

The order matters: token, size, proof over the raw bytes, parsing, one durable transaction, answer.
"""

from asyncio import Future, ensure_future, sleep
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from enum import IntEnum
from functools import cache
from typing import NamedTuple

from opentelemetry.trace import SpanKind
from prometheus_client import Counter

from app.db import Connection
from app.db.tables import attempts, evidence
from app.db.tables.evidence import Evidence
from app.errors import Overloaded, Unavailable
from app.provider import messages
from app.resources import Connections, Policy, Resources
from app.rules.task import Report, Said, Witness
from app.security.keyring import CallbackProof
from app.security.stored_headers import RawHeaders, stored_headers
from app.security.verify import Verdict, verify
from app.settle import LinkLives, enqueue_polls, settle
from app.telemetry import logs, metrics, tracing

MAX_BYTES = 1024 * 1024
# Different callbacks without proof that are stored for each attempt and verdict: enough for a diagnosis.
_MAX_UNPROVEN = 10
# A forger that gets its answers sends more, and takes the processor from the genuine callbacks that are being stored
# and from the units of work that wait for the database.
FORGED_WAIT_S = 0.1
_POLL_AFTER = timedelta(seconds=20)  # until the first poll of a task whose acceptance is first seen in a callback
_UNCHECKED = "unchecked"  # metric label of a callback that is answered before verification
_NOT_PARSED = Report(Said.UNCLEAR)


class Reply(IntEnum):
    """The HTTP status of the answer to a callback."""

    ACCEPTED = 200
    FORGED = 401
    UNKNOWN = 404
    TOO_LARGE = 413


@cache
def _counter(verdict: str, reply: Reply) -> Counter:
    counter: Counter = metrics.callbacks.labels(verdict, reply.value)
    return counter


# Create these series at 0: `rate()` and `increase()` miss the first increment of a series that starts at 1.
for _verdict, _reply in (
    (Verdict.SIGNED, Reply.ACCEPTED),
    (Verdict.SHARED_SECRET, Reply.ACCEPTED),
    (Verdict.UNPROVEN, Reply.ACCEPTED),
    (Verdict.FORGED, Reply.FORGED),
    (_UNCHECKED, Reply.UNKNOWN),
):
    _counter(_verdict, _reply)


class CheckedCallback(NamedTuple):
    """The verdict on a callback with a valid token, forged ones included, and the pending write that stores it."""

    verdict: Verdict
    stored: "Future[bool] | None"  # done once durable; the result tells whether the attempt exists. None: not stored


async def receive(
    use: Resources,
    attempt_id: str,
    token: str,
    headers: RawHeaders,
    read: Callable[[int], Awaitable[bytes | None]],
) -> Reply:
    """Verify and store one callback. `ACCEPTED` means that its effect is durable.

    `read`: returns the body, or None if it has more bytes than the limit it is called with.
    Raises errors.Unavailable if the callback cannot be stored, so that the provider calls again.
    """
    proof = use.keys.prove_token(attempt_id, token)
    if proof is None:
        return count_reply(Reply.UNKNOWN)
    body = await read(MAX_BYTES)
    if body is None:
        return count_reply(Reply.TOO_LARGE)
    checked = verify_and_store(use, attempt_id, proof, headers, body)
    if checked.stored is None and is_occupied(use):
        await sleep(FORGED_WAIT_S)
    elif checked.stored is not None:
        with suppress(Exception):  # reply_to reports it
            await checked.stored
    return reply_to(checked)


def verify_and_store(
    use: Resources, attempt_id: str, proof: CallbackProof, headers: RawHeaders, body: bytes
) -> CheckedCallback:
    """Verify a callback whose token is valid, and start storing it. Raises errors.Unavailable.

    Of forged callbacks only samples are stored.
    """
    verdict = verify(body, headers, proof.secret, use.accounts.signing)
    logs.note(submission_id=attempt_id, verdict=verdict)
    if verdict is Verdict.FORGED:
        return CheckedCallback(verdict, _store_sample(use, attempt_id, proof, headers, body))
    try:
        return CheckedCallback(verdict, _store(use, _evidence(use, attempt_id, proof, headers, body, verdict)))
    except Unavailable as error:
        _count_failure(verdict, error)
        raise


def is_occupied(use: Resources) -> bool:
    """Whether a forged callback that is not stored is answered only after `FORGED_WAIT_S`."""
    return use.callbacks.pending is not None or use.db.is_busy


def reply_to(checked: CheckedCallback) -> Reply:
    """Return the reply to a callback whose `stored` is None or done. Raises errors.Unavailable if it was not stored."""
    verdict, stored = checked
    if stored is None or (verdict is Verdict.FORGED and stored.exception() is not None):
        return count_reply(Reply.FORGED, verdict)  # the verdict does not depend on whether the sample was stored
    try:
        attempt_exists = stored.result()
    except Unavailable as error:
        _count_failure(verdict, error)
        raise
    reply = Reply.FORGED if verdict is Verdict.FORGED else Reply.ACCEPTED
    return count_reply(reply if attempt_exists else Reply.UNKNOWN, verdict)


def count_reply(reply: Reply, verdict: str = _UNCHECKED) -> Reply:
    """Count a callback by verdict and reply, and return the reply."""
    if verdict is _UNCHECKED:
        logs.note(verdict=verdict)
    _counter(verdict, reply).inc()
    return reply


def _count_failure(verdict: Verdict, error: Unavailable) -> None:
    if isinstance(error, Overloaded):
        metrics.callbacks_shed.inc()
    metrics.callbacks.labels(verdict, error.status).inc()


def _store_sample(
    use: Resources, attempt_id: str, proof: CallbackProof, headers: RawHeaders, body: bytes
) -> "Future[bool] | None":
    """Store a forged callback for a diagnosis if the sample limit allows it. Never raises."""
    if not use.forgeries.take(attempt_id, use.now()):
        metrics.forged_callbacks_dropped.inc()
        return None
    try:
        return _store(use, _evidence(use, attempt_id, proof, headers, body, Verdict.FORGED))
    except Exception:  # noqa: BLE001 - as in reply_to: a sample that cannot be stored changes nothing
        return None


def _store(use: Connections, callback: Evidence) -> "Future[bool]":
    if tracing.is_on():
        return ensure_future(_store_traced(use, callback))
    return use.callbacks.add(callback, len(callback.body))


async def _store_traced(use: Connections, callback: Evidence) -> bool:
    """Store and settle one callback within its task's trace."""
    parent = await use.db.read(attempts.traceparent, callback.attempt_id)
    fields = {"submission_id": callback.attempt_id, "verdict": callback.verdict}
    with tracing.span("callback", SpanKind.CONSUMER, parent, tracing.link_here(), **fields):
        return await use.callbacks.add(callback, len(callback.body))


def store_batch(
    connection: Connection, callbacks: Sequence[Evidence], *, link_lives: LinkLives | None = None
) -> list[bool]:
    """Store and settle a batch of callbacks. Return, for each of them, whether its attempt exists.

    `link_lives`: see `settle`.

    The work of `Resources.callbacks`.
    """
    batch = list(zip(callbacks, _within_limit(connection, callbacks), strict=True))
    hinted = {
        callback.attempt_id for callback, stored in batch if not stored and callback.verdict is not Verdict.FORGED
    }
    # Before `settle`, whose last step locks the accounts: jobs are locked before them.
    known = enqueue_polls(connection, hinted, callbacks[-1].received_at)
    settled = settle(
        connection,
        [callback for callback, stored in batch if stored],
        poll_after=_POLL_AFTER,
        link_lives=link_lives,
    )
    effects = iter(settled)
    return [
        next(effects) is not None if stored else callback.verdict is Verdict.FORGED or callback.attempt_id in known
        for callback, stored in batch
    ]


def _within_limit(connection: Connection, callbacks: Sequence[Evidence]) -> list[bool]:
    """Return, for each callback, whether to store it: all with proof, and a limited number of the others.

    An unproven callback that is not stored still acts as a hint, unless it is forged.
    """
    unproven = {(callback.attempt_id, callback.verdict) for callback in callbacks if not callback.proven}
    counts = evidence.count_callbacks(connection, unproven)
    stored = []
    for callback in callbacks:
        key = (callback.attempt_id, callback.verdict)
        stored.append(callback.proven or counts[key] < _MAX_UNPROVEN)
        if not callback.proven:
            counts[key] += 1
    return stored


def _evidence(
    use: Policy, attempt_id: str, proof: CallbackProof, headers: RawHeaders, body: bytes, verdict: Verdict
) -> Evidence:
    redacted = proof.redact(body)
    proven = verdict is Verdict.SIGNED or (verdict is Verdict.SHARED_SECRET and use.trust_shared_secret)
    report = messages.read_callback(redacted) if proven else _NOT_PARSED
    if report.detail:
        report = report._replace(detail=proof.redact_text(report.detail))
    return Evidence(
        attempt_id=attempt_id,
        witness=Witness.CALLBACK,
        verdict=verdict,
        proven=proven,
        report=report,
        body=redacted,
        received_at=use.now(),
        headers=stored_headers(headers, proof),
    )
