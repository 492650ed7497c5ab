"""Sign outgoing webhooks and the callbacks of the twin. Pure: bytes in, header values out."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable
from datetime import datetime

_PREFIX = "whsec_"
_KEY_BYTES = range(24, 65)  # required by the Standard Webhooks specification


def bfl_signature(secret: str, body: bytes) -> str:
    """Return the value of `X-BFL-Signature` for a raw body: `sha256=` and the HMAC-SHA256 in lower-case hex.

    Source: BFL's webhook guide (black-forest-labs/skills, `webhook-integration.md`). The format is that of GitHub's
    `X-Hub-Signature-256`.
    """
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def decode_secret(secret: str) -> bytes:
    """Return the signing key of a webhook secret: the base64 after `whsec_`, or any other text itself, in UTF-8.

    Raises ValueError if `whsec_` is not followed by 24 to 64 bytes of base64. Receivers' libraries require the form
    with the prefix, which `encode_secret` returns for any key.
    """
    if not secret.startswith(_PREFIX):
        return secret.encode()
    text = secret.removeprefix(_PREFIX)
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("must have base64 after `whsec_`") from error
    if len(key) not in _KEY_BYTES:
        raise ValueError("must have 24 to 64 bytes of base64 after `whsec_`")
    return key


def encode_secret(key: bytes) -> str:
    """Return a key in the form that Standard Webhooks libraries accept: `whsec_` and base64."""
    return _PREFIX + base64.b64encode(key).decode()


def standard_headers(keys: Iterable[bytes], message_id: str, at: datetime, body: bytes) -> dict[str, str]:
    """Return the three Standard Webhooks headers, with one `v1` signature for each key."""
    seconds = int(at.timestamp())
    signed = f"{message_id}.{seconds}.".encode() + body
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(seconds),
        "webhook-signature": " ".join(f"v1,{_v1(key, signed)}" for key in keys),
    }


def _v1(key: bytes, signed: bytes) -> str:
    return base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
