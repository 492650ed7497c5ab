"""Signatures we send, the mirror of `verify`. Pure: bytes in, header value out."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable
from datetime import datetime

_PREFIX = "whsec_"
_KEY_BYTES = range(24, 65)  # what the Standard Webhooks specification asks for


def bfl_signature(secret: str, body: bytes) -> str:
    """`X-BFL-Signature` for these raw bytes: "sha256=" and the lower-case hex HMAC-SHA256 under the secret.

    BFL's webhook guide (black-forest-labs/skills, `webhook-integration.md`) has it; it is GitHub's
    `X-Hub-Signature-256` under another name.
    """
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def key_of(secret: str) -> bytes:
    """The key of a Standard Webhooks secret: what follows `whsec_` in base64, or any other text as it is, in UTF-8.

    Raises ValueError for a `whsec_` without 24 to 64 bytes behind it. A receiver's library wants the form with the
    prefix: `spelled_out` has it for every secret.
    """
    if not secret.startswith(_PREFIX):
        return secret.encode()
    text = secret.removeprefix(_PREFIX)
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("must have base64 behind `whsec_`") from error
    if len(key) not in _KEY_BYTES:
        raise ValueError("must have 24 to 64 bytes of base64 behind `whsec_`")
    return key


def spelled_out(key: bytes) -> str:
    """A key as the Standard Webhooks libraries take it."""
    return _PREFIX + base64.b64encode(key).decode()


def standard_headers(keys: Iterable[bytes], message_id: str, at: datetime, body: bytes) -> dict[str, str]:
    """The three headers of Standard Webhooks, with a `v1` signature under each of these keys."""
    seconds = int(at.timestamp())
    signed = f"{message_id}.{seconds}.".encode() + body
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(seconds),
        "webhook-signature": " ".join(f"v1,{_v1(key, signed)}" for key in keys),
    }


def _v1(key: bytes, signed: bytes) -> str:
    return base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
