"""Whether a request to the public address arrives as it was sent: its path, the headers of a proof, and its bytes.

A proxy that re-encodes a body or drops a header makes every callback of the provider look forged. The service answers a
check with digests of what arrived and a proof of them, which only an installation with the same secret keys can make.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from app.security.keyring import KeyRing

HEADERS = ("X-Webhook-Secret", "X-BFL-Signature")  # what may prove a callback
_PURPOSE = "arrival"


@dataclass(frozen=True, slots=True)
class Arrival:
    """Digests of a request: SHA-256 in hex. A header that is missing or comes twice has None."""

    path: str  # its end, as it is
    body: str
    headers: Mapping[str, str | None]

    @classmethod
    def of(cls, path: str, body: bytes, headers: Mapping[str, Sequence[str]]) -> "Arrival":
        """Return the digests of these bytes, and of the values of each header in `HEADERS`."""
        return cls(path, _digest(body), {name: _only(headers.get(name, ())) for name in HEADERS})

    def proof(self, keys: KeyRing) -> str:
        """Return the HMAC of the digests under the newest key."""
        return keys.mac(self._message, _PURPOSE)

    def is_proven(self, keys: KeyRing, proof: str) -> bool:
        """Whether an installation with a key of this ring has made the proof of these digests."""
        return keys.proves(self._message, _PURPOSE, proof)

    def changes(self, arrived: "Arrival") -> list[str]:
        """Return what was changed on the way, as sentences without a subject; empty if it arrived as it was sent."""
        changed = []
        if arrived.path != self.path:
            changed.append("changes the path")
        if arrived.body != self.body:
            changed.append("changes the bytes of the body, as a proxy does that parses or re-encodes JSON")
        for name, digest in self.headers.items():
            if arrived.headers.get(name) != digest:
                changed.append(f"{'removes' if arrived.headers.get(name) is None else 'changes'} the header {name}")
        return changed

    @property
    def _message(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True).encode()


def _only(values: Sequence[str]) -> str | None:
    return _digest(values[0].encode()) if len(values) == 1 else None


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
