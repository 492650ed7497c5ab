"""Signatures we send, the mirror of `verify`. Pure: bytes in, header value out."""

import hashlib
import hmac


def bfl_signature(secret: str, body: bytes) -> str:
    """`X-BFL-Signature` for these raw bytes: "sha256=" and the lower-case hex HMAC-SHA256 under the secret.

    BFL's webhook guide (black-forest-labs/skills, `webhook-integration.md`) has it; it is GitHub's
    `X-Hub-Signature-256` under another name.
    """
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
