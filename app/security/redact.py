"""Replace secrets in bytes that another party sent, before they are stored or shown."""

import re
from collections.abc import Mapping

# JSON may write any character as \uXXXX and a slash as \/. A quote, a backslash and control characters stay escaped,
# because the document would not parse without their escapes. Escapes within escaped JSON have several backslashes.
_ESCAPES = re.compile(rb"\\+(?:u00(2[013-9A-Fa-f]|[346][0-9A-Fa-f]|5[0-9ABD-Fabd-f]|7[0-9A-Ea-e])|(/))")


def redact(raw: bytes, marks: Mapping[bytes, bytes]) -> bytes:
    """Replace each secret, a key of `marks`, by its mark, also if JSON escapes hide it."""
    raw = _replace(raw, marks)
    if b"\\" not in raw:
        return raw
    unescaped = _ESCAPES.sub(_unescape, raw)
    return _replace(unescaped, marks) if any(secret in unescaped for secret in marks) else raw


def _replace(raw: bytes, marks: Mapping[bytes, bytes]) -> bytes:
    for secret, mark in marks.items():
        raw = raw.replace(secret, mark)
    return raw


def _unescape(escape: re.Match[bytes]) -> bytes:
    return escape[2] or bytes.fromhex(escape[1].decode())
