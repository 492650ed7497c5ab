"""The keyring: derives a callback token and secret for each attempt, and encrypts values at rest.

Derived values are not stored: HKDF-SHA256 (RFC 5869) derives the same ones again from a ring key and the attempt's id.
A stolen database therefore cannot forge callbacks, and a flood of forged callbacks causes no query.
"""

import base64
import hashlib
import hmac
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from app.security.redact import redact

_MAX_ID = 48  # characters; the length of the column
_CACHED_PROOFS = 4096  # an attempt's callbacks follow soon after its dispatch, often twice
_NONCE_BYTES = 12  # recommended for GCM by NIST SP 800-38D


class CallbackProof(NamedTuple):
    """The credentials of one attempt's callbacks: the token in their address, and the secret that signs them."""

    token: str
    secret: str

    def __repr__(self) -> str:
        return "<callback proof>"

    def redact(self, raw: bytes) -> bytes:
        """Replace token and secret, which a provider may echo, so that stored bytes cannot forge a callback."""
        return redact(raw, {self.token.encode(): b"[token]", self.secret.encode(): b"[secret]"})

    def redact_text(self, text: str) -> str:
        """Do the same for text that was parsed from such bytes, in which other escapes may have hidden them."""
        return self.redact(text.encode()).decode()


class Signature(NamedTuple):
    """An Ed25519 signature. Key and value are in base64url."""

    key_id: str
    public_key: str
    value: str


class KeyRing:
    """Secret keys, newest first. New values use the first key; every key still verifies and decrypts old values."""

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
        """Iterate over the ids of the keys, newest first."""
        return iter(self._keys)

    def callback_proof(self, attempt_id: str, signing_key_id: str) -> CallbackProof:
        """Return token and secret of an attempt, derived from the given ring key. Raises KeyError without that key."""
        return _callback_proof(self._keys[signing_key_id], attempt_id)

    def prove_token(self, attempt_id: str, token: str) -> CallbackProof | None:
        """Return the proof that has this token, trying every key of the ring; None if no key derives it."""
        if len(attempt_id) > _MAX_ID:
            return None  # and keeps long ids out of the cache
        for key in self._keys.values():
            expected = _callback_token(key, attempt_id)
            if hmac.compare_digest(expected.encode(), token.encode(errors="surrogatepass")):
                return _callback_proof(key, attempt_id)
        return None

    def seal(self, plain: bytes, purpose: str, nonce: bytes) -> str:
        """Encrypt with AES-256-GCM for one purpose. Return `<key id>.<base64url>`. `nonce`: 12 bytes, never reused."""
        box = AESGCM(_derive(self._keys[self.newest], f"seal:{purpose}"))
        return f"{self.newest}.{_base64url(nonce + box.encrypt(nonce, plain, None))}"

    def unseal(self, sealed: str, purpose: str) -> bytes | None:
        """Decrypt a sealed value; None if it was altered, has another purpose, or its key has left the ring."""
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
        """Return the keys for an API key's webhooks without a secret of their own: 32 bytes each, newest first."""
        return tuple(_derive(key, f"webhook-secret:{key_id}") for key in self._keys.values())

    def cipher_keys(self, purpose: str) -> tuple[bytes, ...]:
        """Return keys of a cipher for one purpose: 32 bytes each, newest first."""
        return tuple(_derive(key, f"cipher:{purpose}") for key in self._keys.values())

    def mac(self, message: bytes, purpose: str) -> str:
        """Return the HMAC of a message for one purpose under the newest key: 32 bytes in base64url."""
        return _base64url(_mac(self._keys[self.newest], message, purpose))

    def sign(self, message: bytes, purpose: str) -> Signature:
        """Return the Ed25519 signature of a message for one purpose, with a key derived from the newest ring key."""
        return _signature(self._keys[self.newest], self.newest, message, purpose)

    def public_keys(self, purpose: str) -> dict[str, str]:
        """Return the public keys of signatures for this purpose, by the id of the ring key, newest first."""
        return {key_id: _public_key(_signing_key(key, purpose)) for key_id, key in self._keys.items()}

    def proves(self, message: bytes, purpose: str, mac: str) -> bool:
        """Whether `mac` is the HMAC of the message for this purpose under any key of the ring."""
        for key in self._keys.values():
            expected = _base64url(_mac(key, message, purpose))
            if hmac.compare_digest(expected.encode(), mac.encode(errors="surrogatepass")):
                return True
        return False


def _signing_key(key: bytes, purpose: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(_derive(key, f"sign:{purpose}"))


def _public_key(key: Ed25519PrivateKey) -> str:
    return _base64url(key.public_key().public_bytes_raw())


def _signature(key: bytes, key_id: str, message: bytes, purpose: str) -> Signature:
    signing_key = _signing_key(key, purpose)
    return Signature(key_id, _public_key(signing_key), _base64url(signing_key.sign(message)))


def _mac(key: bytes, message: bytes, purpose: str) -> bytes:
    return hmac.new(_derive(key, f"mac:{purpose}"), message, hashlib.sha256).digest()


def sealing_key_id(sealed: str) -> str:
    """Return the id of the ring key that a value was sealed with."""
    return sealed.partition(".")[0]


@lru_cache(maxsize=_CACHED_PROOFS)
def _callback_token(key: bytes, attempt_id: str) -> str:
    """Cached apart from the proofs: a guessed address derives no secret and evicts no proof."""
    return _base64url(_derive(key, f"callback-token:{attempt_id}"))


@lru_cache(maxsize=_CACHED_PROOFS)
def _callback_proof(key: bytes, attempt_id: str) -> CallbackProof:
    return CallbackProof(
        token=_callback_token(key, attempt_id),
        secret=_derive(key, f"callback-secret:{attempt_id}").hex(),
    )


def _derive(key: bytes, info: str) -> bytes:
    """HKDF-SHA256 (RFC 5869) without a salt, 32 bytes: a single block, so one HMAC after the extraction.

    Not taken from `cryptography`, which would double the time of a verification: every callback derives two values.
    """
    block = _extract(key).copy()
    block.update(f"fluxhook/v1/{info}\1".encode(errors="surrogatepass"))
    return block.digest()


@lru_cache(maxsize=16)
def _extract(key: bytes) -> hmac.HMAC:
    return hmac.new(hmac.digest(bytes(32), key, "sha256"), digestmod="sha256")


def _key_id(key: str) -> str:
    """Return the id that is stored with values made from the key; it does not reveal the key."""
    return hashlib.sha256(b"fluxhook/v1/key-id:" + key.encode()).hexdigest()[:12]


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
