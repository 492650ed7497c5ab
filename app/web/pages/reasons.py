"""Why a stored callback got its verdict: which check failed, and the likely causes."""

from collections.abc import Sequence

from app.db.tables.attempts import Attempt
from app.db.tables.evidence import EvidenceContent
from app.resources import Resources
from app.rules.task import Witness
from app.security.diagnosis import Candidate, Received, causes_of
from app.security.verify import Verdict, verify


def reasons(use: Resources, attempt: Attempt, content: EvidenceContent) -> Sequence[str]:
    """Return sentences about the check of a callback; none for other evidence."""
    if content.row.witness is not Witness.CALLBACK:
        return ()
    profile = use.accounts.signing
    signature, secret = _name(profile.signature_header), _name(profile.secret_header)
    match content.row.verdict:
        case Verdict.SIGNED:
            return [f"The header {signature} is the HMAC-SHA256 of the body under the secret."]
        case Verdict.SHARED_SECRET:
            return [f"The header {secret} is the secret of this attempt."]
        case Verdict.UNPROVEN:
            return [f"It has neither {signature} nor {secret}.", *_likely(use, attempt, content)]
    if (
        profile.signature_header.decode() not in content.headers
    ):  # the secret is not stored, so there is nothing to look at
        return [
            f"The header {secret} is not the secret of this attempt, or was sent twice.",
            "Likely cause: the sender is not the provider, or it used the secret of another attempt or key.",
        ]
    expected = _expected(use, attempt)
    received = _received(content)
    if verify(received.body, received.headers, expected.secret, profile) is Verdict.SIGNED:
        return ["The signature is valid by itself: the header was sent more than once, which is refused."]
    failed = f"The header {signature} is not the HMAC-SHA256 of this body under the attempt's secret."
    return [failed, *_likely(use, attempt, content)]


def _likely(use: Resources, attempt: Attempt, content: EvidenceContent) -> list[str]:
    return [f"Likely cause: {cause}." for cause in causes_of(_received(content), _expected(use, attempt))]


def _expected(use: Resources, attempt: Attempt) -> Candidate:
    """Return the secret of an attempt; it is empty, and fits nothing, if its key is no longer in the keyring."""
    known = attempt.signing_key_id in use.keys
    secret = use.keys.callback_proof(attempt.id, attempt.signing_key_id).secret if known else ""
    return Candidate("the secret of this attempt", secret)


def _received(content: EvidenceContent) -> Received:
    headers = tuple(
        (name.encode("latin-1", "replace"), value.encode("latin-1", "replace"))
        for name, value in content.headers.items()
    )
    return Received(headers, content.body)


def _name(header: bytes) -> str:
    return "-".join(part.capitalize() for part in header.decode().split("-"))
