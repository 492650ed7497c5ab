"""The headers of a callback as they are stored: bounded, and without secrets."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from json.encoder import encode_basestring_ascii as _json  # as `json.dumps` of a string, eight times as fast

from app.security.keyring import CallbackProof

_MAX_HEADERS = 60
_MAX_HEADER = 300  # characters of a name or value that are stored
_SECRET_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization", "x-webhook-secret"})
RawHeaders = Sequence[tuple[bytes, bytes]]


def stored_headers(headers: RawHeaders, proof: CallbackProof) -> str:
    """Return the headers to store as a JSON object, for the diagnosis of signatures: bounded, and without secrets."""
    stored = headers[:_MAX_HEADERS]
    if max(map(len, chain.from_iterable(stored)), default=0) > _MAX_HEADER:
        # Redact before cutting: a secret that is cut in half would not be found.
        stored = [(proof.redact(name)[:_MAX_HEADER], proof.redact(value)[:_MAX_HEADER]) for name, value in stored]
    text = "{" + ", ".join({name: _json_member(name, value) for name, value in stored}.values()) + "}"
    return proof.redact_text(text)


@lru_cache(maxsize=1024)
def _json_member(name: bytes, value: bytes) -> str:
    """Return one header as a member of a JSON object. Cached: a provider repeats most of its headers."""
    lowered = _text(name).lower()
    return f"{_json(lowered)}: {_json('[not kept]' if lowered in _SECRET_HEADERS else _text(value))}"


def _text(raw: bytes) -> str:
    return raw[:_MAX_HEADER].replace(b"\0", b"").decode("latin-1")
