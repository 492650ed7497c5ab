"""The hot path: prove a callback, keep it, settle it, and only then answer.

The order is the point: size, token, proof over the raw bytes, parse, one durable transaction, answer.
"""

from asyncio import Future, ensure_future
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from enum import IntEnum
from functools import cache, lru_cache
from itertools import chain
from json.encoder import encode_basestring_ascii as _json  # what `json.dumps` does to text, eight times as fast
from typing import NamedTuple

from opentelemetry.trace import SpanKind
from prometheus_client import Counter

from app.db import Connection
from app.db.tables import attempts, evidence
from app.errors import Overloaded, Unavailable
from app.provider import messages
from app.resources import Resources
from app.rules.task import Report, Said, Witness
from app.security.keyring import CallbackProof
from app.security.verify import SigningProfile, Verdict, verify
from app.settle import hint, settle
from app.telemetry import logs, metrics, tracing
from app.transitions.changes import Evidence

MAX_BYTES = 1024 * 1024
# Of callbacks that prove nothing this many different ones are kept for an attempt: enough to see what is wrong.
_KEPT_UNTRUSTED = 10
_MAX_HEADERS = 60
_PATIENCE = timedelta(seconds=20)  # with a task of which an interim callback is the first that is heard
_MAX_HEADER = 300
_NEVER_KEPT = frozenset({"authorization", "cookie", "proxy-authorization", "x-webhook-secret"})
_UNCHECKED = "unchecked"  # the verdict on what is not looked at
_USUAL = SigningProfile()
_UNREAD = Report(Said.UNCLEAR)


RawHeaders = Sequence[tuple[bytes, bytes]]


class Reply(IntEnum):
    """What the caller is told."""

    ACCEPTED = 200
    FORGED = 401
    UNKNOWN = 404
    TOO_LARGE = 413


@cache
def _counter(verdict: str, reply: Reply) -> Counter:
    counter: Counter = metrics.callbacks.labels(verdict, reply.value)
    return counter


# Known from the start: a series that begins at 1 shows no rise.
for _verdict, _reply in (
    (Verdict.SIGNED, Reply.ACCEPTED),
    (Verdict.SHARED_SECRET, Reply.ACCEPTED),
    (Verdict.UNPROVEN, Reply.ACCEPTED),
    (Verdict.FORGED, Reply.FORGED),
    (_UNCHECKED, Reply.UNKNOWN),
):
    _counter(_verdict, _reply)


class Judged(NamedTuple):
    """A callback whose address is right, on its way to be kept."""

    verdict: Verdict
    kept: "Future[bool] | None"  # done when it is durable: whether its attempt is known; None when it is not kept


async def receive(
    use: Resources,
    submission_id: str,
    token: str,
    headers: RawHeaders,
    read: Callable[[int], Awaitable[bytes | None]],
) -> Reply:
    """Judge and keep one callback; ACCEPTED means that its effect is durable.

    `read` gives the body, or None as soon as that has more bytes than it is told.
    Raises errors.Unavailable when it could not be kept, so that the provider calls again.
    """
    proof = use.keys.prove_token(submission_id, token)
    if proof is None:
        return tell(Reply.UNKNOWN)
    body = await read(MAX_BYTES)
    if body is None:
        return tell(Reply.TOO_LARGE)
    judged = judge(use, submission_id, proof, headers, body)
    if judged.kept is not None:
        with suppress(Exception):  # told below
            await judged.kept
    return reply_to(judged)


def judge(use: Resources, submission_id: str, proof: CallbackProof, headers: RawHeaders, body: bytes) -> Judged:
    """Judge a callback with the right token, and have kept of it what is to be kept. Raises errors.Unavailable."""
    profile = use.provider.spec.signing if use.provider else _USUAL
    verdict = verify(body, headers, proof.secret, profile)
    logs.note(submission_id=submission_id, verdict=verdict)
    if verdict is Verdict.FORGED:
        return Judged(verdict, _kept_sample(use, submission_id, proof, headers, body))
    try:
        return Judged(verdict, _keep(use, _evidence(use, submission_id, proof, headers, body, verdict)))
    except Unavailable as error:
        _count_failure(verdict, error)
        raise


def reply_to(judged: Judged) -> Reply:
    """What is to be said to a callback, once `kept` is done. Raises errors.Unavailable when it could not be kept."""
    verdict, kept = judged
    if kept is None or (verdict is Verdict.FORGED and kept.exception() is not None):
        return tell(Reply.FORGED, verdict)  # an outage, or bytes that cannot be kept: it is forged all the same
    try:
        known = kept.result()
    except Unavailable as error:
        _count_failure(verdict, error)
        raise
    known_as = Reply.FORGED if verdict is Verdict.FORGED else Reply.ACCEPTED
    return tell(known_as if known else Reply.UNKNOWN, verdict)


def tell(reply: Reply, verdict: str = _UNCHECKED) -> Reply:
    """Count a callback by its verdict and by what its caller is told, which is returned."""
    if verdict is _UNCHECKED:
        logs.note(verdict=verdict)
    _counter(verdict, reply).inc()
    return reply


def _count_failure(verdict: Verdict, error: Unavailable) -> None:
    if isinstance(error, Overloaded):
        metrics.callbacks_turned_away.inc()
    metrics.callbacks.labels(verdict, error.status).inc()


def _kept_sample(
    use: Resources, submission_id: str, proof: CallbackProof, headers: RawHeaders, body: bytes
) -> "Future[bool] | None":
    """A few of the forged callbacks are kept, to show what is wrong."""
    if not use.forgeries.take(submission_id, use.now()):
        metrics.forgeries_not_kept.inc()
        return None
    try:
        return _keep(use, _evidence(use, submission_id, proof, headers, body, Verdict.FORGED))
    except Exception:  # noqa: BLE001 - as where it is waited for
        return None


def _keep(use: Resources, given: Evidence) -> "Future[bool]":
    if tracing.is_on():
        return ensure_future(_keep_traced(use, given))
    return use.db.write_batched(_keep_group, given, len(given.body))


async def _keep_traced(use: Resources, given: Evidence) -> bool:
    """Keep and settle one callback as a part of its task's trace."""
    within = await use.db.read(lambda connection: attempts.traceparent(connection, given.submission_id))
    about = {"submission_id": given.submission_id, "verdict": given.verdict}
    with tracing.span("callback", SpanKind.CONSUMER, within, tracing.link_here(), **about):
        return await use.db.write_batched(_keep_group, given, len(given.body))


def _keep_group(connection: Connection, group: Sequence[Evidence]) -> list[bool]:
    """Keep and settle all that came together; for each, whether its attempt is known."""
    judged = list(zip(group, _are_worth_keeping(connection, group), strict=True))
    effects = iter(settle(connection, [each for each, is_kept in judged if is_kept], look_after=_PATIENCE))
    hinting = {each.submission_id for each, is_kept in judged if not is_kept and each.verdict is not Verdict.FORGED}
    known = hint(connection, hinting, group[-1].received_at)
    return [
        next(effects) is not None if is_kept else each.verdict is Verdict.FORGED or each.submission_id in known
        for each, is_kept in judged
    ]


def _are_worth_keeping(connection: Connection, group: Sequence[Evidence]) -> list[bool]:
    """What proves nothing is kept while it teaches something; past that, only what it hints at counts."""
    doubtful = {(each.submission_id, each.verdict) for each in group if not each.proven}
    kept = evidence.count_callbacks(connection, doubtful)
    found = []
    for each in group:
        which = (each.submission_id, each.verdict)
        found.append(each.proven or kept[which] < _KEPT_UNTRUSTED)
        if not each.proven:
            kept[which] += 1
    return found


def _evidence(
    use: Resources, submission_id: str, proof: CallbackProof, headers: RawHeaders, body: bytes, verdict: Verdict
) -> Evidence:
    redacted = proof.redact(body)
    proven = verdict is Verdict.SIGNED or (verdict is Verdict.SHARED_SECRET and use.trust_shared_secret)
    report = messages.read_callback(redacted) if proven else _UNREAD
    if report.detail:
        report = report._replace(detail=proof.redact_text(report.detail))
    return Evidence(
        submission_id=submission_id,
        witness=Witness.CALLBACK,
        verdict=verdict,
        proven=proven,
        report=report,
        body=redacted,
        received_at=use.now(),
        headers=kept_headers(headers, proof),
    )


def kept_headers(headers: RawHeaders, proof: CallbackProof) -> str:
    """The headers that may show why a scheme did not match, as JSON, bounded, without anything that opens a door."""
    some = headers[:_MAX_HEADERS]
    if max(map(len, chain.from_iterable(some)), default=0) > _MAX_HEADER:
        # Redacted before they are cut: half a secret is not found.
        some = [(proof.redact(name)[:_MAX_HEADER], proof.redact(value)[:_MAX_HEADER]) for name, value in some]
    text = "{" + ", ".join({name: _quoted(name, value) for name, value in some}.values()) + "}"
    return proof.redact_text(text)


@lru_cache(maxsize=1024)
def _quoted(name: bytes, value: bytes) -> str:
    """One header as a member of a JSON object. Most of what a provider sends is the same each time."""
    lowered = _text(name).lower()
    return f"{_json(lowered)}: {_json('[not kept]' if lowered in _NEVER_KEPT else _text(value))}"


def _text(raw: bytes) -> str:
    return raw[:_MAX_HEADER].replace(b"\0", b"").decode("latin-1")
