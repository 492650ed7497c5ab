"""The key ring: a token and a secret derived for each submission, and values sealed at rest.

Nothing derived is stored: HKDF-SHA256 (RFC 5869) gives the same answer from the ring key and the
submission's id, so a stolen database forges no callback and a flood of forged ones costs no query.
"""

import base64
import hashlib
import hmac
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_LONGEST_ID = 48  # as long as the column
_PROOFS = 4096  # kept at hand: an attempt's callbacks come soon after it was dispatched, and often twice
_NONCE_BYTES = 12  # what NIST SP 800-38D recommends for GCM


class CallbackProof(NamedTuple):
    """What a callback of one submission must know: the token of its address, the secret it signs with."""

    token: str
    secret: str

    def __repr__(self) -> str:
        return "<the proof of an attempt>"

    def redact(self, raw: bytes) -> bytes:
        """These bytes without the two: a provider may echo them, and what is kept must forge nothing."""
        return raw.replace(self.token.encode(), b"[token]").replace(self.secret.encode(), b"[secret]")

    def redact_text(self, text: str) -> str:
        """The same for what was read of such bytes, where they may have stood in escapes."""
        return self.redact(text.encode()).decode()


class KeyRing:
    """Secret keys, newest first. New values come from the first; every one still proves old values."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        if not keys:
            raise ValueError("a key ring needs at least one key")
        self._keys = {_key_id(key): key.encode() for key in keys}
        self.newest = _key_id(keys[0])

    def __repr__(self) -> str:
        return f"KeyRing({', '.join(self._keys)})"

    def __contains__(self, signing_key_id: str) -> bool:
        return signing_key_id in self._keys

    def __iter__(self) -> Iterator[str]:
        """The names of its keys, newest first."""
        return iter(self._keys)

    def callback_proof(self, submission_id: str, signing_key_id: str) -> CallbackProof:
        """Token and secret of a submission under the ring key it was planned with, which must be in the ring."""
        return _callback_proof(self._keys[signing_key_id], submission_id)

    def prove_token(self, submission_id: str, token: str) -> CallbackProof | None:
        """The proof whose token this is, looked for under every key of the ring; None when there is none."""
        if len(submission_id) > _LONGEST_ID:
            return None  # nor is a name of any length remembered
        for key in self._keys.values():
            expected = _callback_token(key, submission_id)
            if hmac.compare_digest(expected.encode(), token.encode(errors="surrogatepass")):
                return _callback_proof(key, submission_id)
        return None

    def seal(self, plain: bytes, purpose: str, nonce: bytes) -> str:
        """`<ring key>.<base64url>`: AES-256-GCM, bound to its purpose. `nonce`: 12 bytes, never used before."""
        box = AESGCM(_derive(self._keys[self.newest], f"seal:{purpose}"))
        return f"{self.newest}.{_text(nonce + box.encrypt(nonce, plain, None))}"

    def unseal(self, sealed: str, purpose: str) -> bytes | None:
        """What was sealed for this purpose; None when it was altered, or its key left the ring."""
        signing_key_id, _, text = sealed.partition(".")
        key = self._keys.get(signing_key_id)
        if key is None:
            return None
        try:
            raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
            return AESGCM(_derive(key, f"seal:{purpose}")).decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], None)
        except (ValueError, InvalidTag):
            return None

    def webhook_keys(self, key_id: str) -> tuple[bytes, ...]:
        """What webhooks of an API key are signed with that were given no secret, newest first: 32 bytes each."""
        return tuple(_derive(key, f"webhook-secret:{key_id}") for key in self._keys.values())

    def mac(self, message: bytes, purpose: str) -> str:
        """A proof, under the newest key, that this message is ours: base64url of 32 bytes."""
        return _text(_mac(self._keys[self.newest], message, purpose))

    def proves(self, message: bytes, purpose: str, mac: str) -> bool:
        """Whether any key of the ring made this proof of the message for this purpose."""
        for key in self._keys.values():
            expected = _text(_mac(key, message, purpose))
            if hmac.compare_digest(expected.encode(), mac.encode(errors="surrogatepass")):
                return True
        return False


def _mac(key: bytes, message: bytes, purpose: str) -> bytes:
    return hmac.new(_derive(key, f"mac:{purpose}"), message, hashlib.sha256).digest()


def sealed_with(sealed: str) -> str:
    """The name of the ring key that a value was sealed with."""
    return sealed.partition(".")[0]


@lru_cache(maxsize=_PROOFS)
def _callback_token(key: bytes, submission_id: str) -> str:
    """By itself: whoever guesses at addresses costs no secret, and drives no proof out of what is at hand."""
    return _text(_derive(key, f"callback-token:{submission_id}"))


@lru_cache(maxsize=_PROOFS)
def _callback_proof(key: bytes, submission_id: str) -> CallbackProof:
    return CallbackProof(
        token=_callback_token(key, submission_id),
        secret=_derive(key, f"callback-secret:{submission_id}").hex(),
    )


def _derive(key: bytes, info: str) -> bytes:
    """HKDF-SHA256 (RFC 5869) without a salt, 32 bytes: one block, so one HMAC after the extraction.

    Written out, because every callback needs two: through `cryptography` they take as long as all else of a proof.
    """
    block = _extracted(key).copy()
    block.update(f"fluxhook/v1/{info}\1".encode(errors="surrogatepass"))
    return block.digest()


@lru_cache(maxsize=16)
def _extracted(key: bytes) -> hmac.HMAC:
    return hmac.new(hmac.digest(bytes(32), key, "sha256"), digestmod="sha256")


def _key_id(key: str) -> str:
    """Names a key without giving it away: kept beside what was made with it."""
    return hashlib.sha256(b"fluxhook/v1/key-id:" + key.encode()).hexdigest()[:12]


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
