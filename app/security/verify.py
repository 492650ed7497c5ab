"""Whether a callback proves itself: raw bytes, headers, secret and profile in, a verdict out.

Pure, for every input a verdict and never an exception. It reads nothing inside the body: what is not
proven is not parsed.
"""

import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

Headers = Iterable[tuple[bytes, bytes]]


class Verdict(StrEnum):
    """How far a piece of evidence proves where it came from."""

    SIGNED = "signed"  # an HMAC over these very bytes: origin and integrity
    SHARED_SECRET = "shared_secret"  # noqa: S105 - the plain secret came along: possession, not integrity
    UNPROVEN = "unproven"  # nothing to check
    FORGED = "forged"  # there was something to check, and it was wrong
    FETCHED = "fetched"  # no callback: an answer to a request of ours


@dataclass(frozen=True, slots=True)
class SigningProfile:
    """The headers in which a provider proves its callbacks, in lower case."""

    signature_header: bytes = b"x-bfl-signature"
    secret_header: bytes = b"x-webhook-secret"


def verify(body: bytes, headers: Headers, secret: str, profile: SigningProfile) -> Verdict:
    """Judge a callback.

    The signature is profile A, `sha256=` and the hex HMAC-SHA256 of the raw body (BFL's webhook guide; the
    prefix may be missing and the hex in either case). Only without that header does profile B count, the
    plain secret itself (BFL's parameter tables, and what two apps logged). A proof that is there and wrong,
    or there twice, is forged: it never falls through to the weaker one. An empty secret proves nothing.
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
        return Verdict.SIGNED if _signs(signatures, body, secret) else Verdict.FORGED
    if secrets:
        return Verdict.SHARED_SECRET if _tells(secrets, secret) else Verdict.FORGED
    return Verdict.UNPROVEN


def _signs(signatures: list[bytes], body: bytes, secret: str) -> bool:
    if len(signatures) != 1 or not secret:
        return False
    expected = hmac.digest(secret.encode(), body, "sha256").hex()
    return hmac.compare_digest(signatures[0].removeprefix(b"sha256=").lower(), expected.encode())


def _tells(secrets: list[bytes], secret: str) -> bool:
    return len(secrets) == 1 and bool(secret) and hmac.compare_digest(secrets[0], secret.encode())
