"""The hot path: prove a callback, keep it, settle it, and only then answer.

The order is the point: size, token, proof over the raw bytes, parse, one durable transaction, answer.
"""

from collections.abc import AsyncIterable, Sequence
from datetime import timedelta
from enum import Enum

from opentelemetry.trace import SpanKind

from app import logs, metrics, tracing
from app.consequences import Evidence
from app.errors import Unavailable
from app.provider import messages
from app.record import Connection, evidence, submissions
from app.resources import Resources
from app.secret_keys import CallbackProof
from app.settle import hint, settle
from app.task import Report, Said, Witness
from app.verify import Headers, SigningProfile, Verdict, verify

MAX_BYTES = 1024 * 1024
# Of callbacks that prove nothing this many different ones are kept for an attempt: enough to see what is wrong.
_KEPT_UNTRUSTED = 10
_MAX_HEADERS = 60
_PATIENCE = timedelta(seconds=20)  # with a task of which an interim callback is the first that is heard
_MAX_HEADER = 300
_NEVER_KEPT = frozenset({"authorization", "cookie", "proxy-authorization", "x-webhook-secret"})
_UNCHECKED = "unchecked"  # the verdict on what is not looked at


class Reply(Enum):
    """What the caller is told."""

    ACCEPTED = 200
    FORGED = 401
    UNKNOWN = 404
    TOO_LARGE = 413


# Known from the start: a series that begins at 1 shows no rise.
for _verdict, _reply in (
    (Verdict.SIGNED, Reply.ACCEPTED),
    (Verdict.SHARED_SECRET, Reply.ACCEPTED),
    (Verdict.UNPROVEN, Reply.ACCEPTED),
    (Verdict.FORGED, Reply.FORGED),
    (_UNCHECKED, Reply.UNKNOWN),
):
    metrics.callbacks.labels(_verdict, _reply.value)


async def receive(
    use: Resources,
    submission_id: str,
    token: str,
    headers: Sequence[tuple[bytes, bytes]],
    chunks: AsyncIterable[bytes],
) -> Reply:
    """Judge and keep one callback; ACCEPTED means that its effect is durable.

    Raises errors.Unavailable when it could not be kept, so that the provider calls again.
    """
    proof = use.keys.prove_token(submission_id, token)
    if proof is None:
        return tell(Reply.UNKNOWN)
    logs.note(submission_id=submission_id)
    body = await _read(chunks)
    if body is None:
        return tell(Reply.TOO_LARGE)
    profile = use.provider.promises.signing if use.provider else SigningProfile()
    verdict = verify(body, headers, proof.secret, profile)
    given = _evidence(use, submission_id, proof, headers, body, verdict)
    try:
        known = await _keep(use, given)
    except Unavailable as error:
        metrics.callbacks.labels(verdict, error.status).inc()
        raise
    if not known:
        return tell(Reply.UNKNOWN, verdict)
    return tell(Reply.FORGED if verdict is Verdict.FORGED else Reply.ACCEPTED, verdict)


def tell(reply: Reply, verdict: str = _UNCHECKED) -> Reply:
    """Count a callback by its verdict and by what its caller is told, which is returned."""
    logs.note(verdict=verdict)
    metrics.callbacks.labels(verdict, reply.value).inc()
    return reply


async def _keep(use: Resources, given: Evidence) -> bool:
    """Keep and settle one callback, as a part of its task's trace; False where there is no such attempt."""
    keep = _keep_proven if given.proven else _keep_untrusted
    within = None
    if tracing.is_on():
        within = await use.db.read(lambda connection: submissions.traceparent(connection, given.submission_id))
    about = {"submission_id": given.submission_id, "verdict": given.verdict}
    with tracing.span("callback", SpanKind.CONSUMER, within, tracing.link_here(), **about):
        return await use.db.write(lambda connection: keep(connection, given))


def _keep_proven(connection: Connection, given: Evidence) -> bool:
    return settle(connection, [given], look_after=_PATIENCE)[0] is not None


def _keep_untrusted(connection: Connection, given: Evidence) -> bool:
    """Keep what proves nothing while it teaches something; past that, only what it hints at counts."""
    if evidence.count_untrusted(connection, given.submission_id, given.verdict) < _KEPT_UNTRUSTED:
        return _keep_proven(connection, given)
    if given.verdict is not Verdict.FORGED:
        hint(connection, given.submission_id, given.received_at)
    return True


async def _read(chunks: AsyncIterable[bytes]) -> bytes | None:
    """The body; None as soon as it is too large."""
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > MAX_BYTES:
            return None
    return bytes(body)


def _evidence(
    use: Resources, submission_id: str, proof: CallbackProof, headers: Headers, body: bytes, verdict: Verdict
) -> Evidence:
    redacted = proof.redact(body)
    trusted = {Verdict.SIGNED, Verdict.SHARED_SECRET} if use.trust_shared_secret else {Verdict.SIGNED}
    return Evidence(
        submission_id=submission_id,
        witness=Witness.CALLBACK,
        verdict=verdict,
        proven=verdict in trusted,
        report=messages.read_status(redacted) if verdict in trusted else Report(Said.UNCLEAR),
        body=redacted,
        received_at=use.now(),
        headers=_kept_headers(headers, proof),
    )


def _kept_headers(headers: Headers, proof: CallbackProof) -> dict[str, str]:
    """The headers that may show why a scheme did not match, bounded, without anything that opens a door."""
    kept = {}
    for raw_name, raw_value in list(headers)[:_MAX_HEADERS]:
        name = raw_name.decode("latin-1").lower()
        value = proof.redact(raw_value)[:_MAX_HEADER].decode("latin-1").replace("\0", "")
        kept[name] = "[not kept]" if name in _NEVER_KEPT else value
    return kept
