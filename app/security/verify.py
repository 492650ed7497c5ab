"""Verify callbacks: raw body, headers, secret and signing profile in, verdict out.

Pure. Every input yields a verdict and never an exception. The body is not parsed, because it is not proven yet.
"""

import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

Headers = Iterable[tuple[bytes, bytes]]


class Verdict(StrEnum):
    """How far a piece of evidence proves its origin."""

    SIGNED = "signed"  # an HMAC over the raw body: origin and integrity
    SHARED_SECRET = "shared_secret"  # noqa: S105 - the plain secret was sent: possession, not integrity
    UNPROVEN = "unproven"  # no proof was sent
    FORGED = "forged"  # the proof is wrong, or was sent twice
    FETCHED = "fetched"  # no callback: the answer to a request of Fluxhook


@dataclass(frozen=True, slots=True)
class SigningProfile:
    """The names of the headers with which a provider proves its callbacks, in lower case."""

    signature_header: bytes = b"x-bfl-signature"
    secret_header: bytes = b"x-webhook-secret"


def verify(body: bytes, headers: Headers, secret: str, profile: SigningProfile) -> Verdict:
    """Return the verdict on a callback.

    The signature header is checked first: `sha256=` and the hex HMAC-SHA256 of the raw body (BFL's webhook guide). The
    prefix is optional, and the hex may be in either case. Only without that header does the secret header count, which
    holds the plain secret (BFL's parameter tables, and the logs of two applications). A wrong or repeated header is
    forged, and never falls through to the weaker proof. An empty secret proves nothing.
    """
    signatures = []
    secrets = []
    for name, value in headers:
        lowered = name.lower()
        if lowered == profile.signature_header:
            signatures.append(value)
        elif lowered == profile.secret_header:
            secrets.append(value)
    if signatures:
        return Verdict.SIGNED if _is_signature(signatures, body, secret) else Verdict.FORGED
    if secrets:
        return Verdict.SHARED_SECRET if _is_secret(secrets, secret) else Verdict.FORGED
    return Verdict.UNPROVEN


def _is_signature(signatures: list[bytes], body: bytes, secret: str) -> bool:
    if len(signatures) != 1 or not secret:
        return False
    expected = hmac.digest(secret.encode(), body, "sha256").hex()
    return hmac.compare_digest(signatures[0].removeprefix(b"sha256=").lower(), expected.encode())


def _is_secret(secrets: list[bytes], secret: str) -> bool:
    return len(secrets) == 1 and bool(secret) and hmac.compare_digest(secrets[0], secret.encode())
