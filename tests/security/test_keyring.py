import base64
import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from app.security.keyring import CallbackProof, KeyRing

NEW, OLD = "n" * 40, "o" * 40
NONCE = bytes(range(12))
ring = KeyRing((NEW, OLD))
only_old = KeyRing((OLD,))


def hkdf_sha256(key: str, info: str) -> bytes:
    """RFC 5869 by hand, for one block of output without a salt."""
    extracted = hmac.digest(bytes(32), key.encode(), "sha256")
    return hmac.digest(extracted, info.encode() + b"\x01", "sha256")


def base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def test_a_ring_without_keys_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one key"):
        KeyRing(())


# Derivation: these values are in addresses that providers hold, so they may never change.


def test_the_token_is_hkdf_of_the_ring_key_and_the_attempt() -> None:
    expected = base64url(hkdf_sha256(NEW, "fluxhook/v1/callback-token:sub_1"))

    assert ring.callback_proof("sub_1", ring.newest).token == expected


def test_the_secret_is_hkdf_of_the_ring_key_and_the_attempt() -> None:
    expected = hkdf_sha256(NEW, "fluxhook/v1/callback-secret:sub_1").hex()

    assert ring.callback_proof("sub_1", ring.newest).secret == expected


# A name and a key may be of any length: an HMAC's key has a form of its own past 64 bytes.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200)


@given(key=TEXTS, key_id=TEXTS)
def test_derived_values_equal_those_of_the_library(key: str, key_id: str) -> None:
    expected = HKDF(SHA256(), 32, None, f"fluxhook/v1/webhook-secret:{key_id}".encode()).derive(key.encode())

    assert KeyRing((key,)).webhook_keys(key_id) == (expected,)


@pytest.mark.parametrize("key", ["k", NEW, "ü" * 40, "k" * 64, "k" * 65, "k" * 500])
@pytest.mark.parametrize("attempt_id", ["sub_1", f"sub_{'v' * 37}", "ü"])
def test_a_callback_is_proven_with_values_derived_by_the_library(key: str, attempt_id: str) -> None:
    token, secret = (
        HKDF(SHA256(), 32, None, f"fluxhook/v1/callback-{what}:{attempt_id}".encode()).derive(key.encode())
        for what in ("token", "secret")
    )
    of_key = KeyRing((key,))

    assert of_key.prove_token(attempt_id, base64url(token)) == CallbackProof(base64url(token), secret.hex())


def test_alternating_rings_derive_the_same_values_again() -> None:
    names = [f"key_{number}" for number in range(40)]
    rings = [KeyRing((f"{number}" * 40,)) for number in range(20)]  # more than are kept at hand
    first, again = ([each.webhook_keys(name) for name in names for each in rings] for _ in range(2))

    assert first == again
    assert len(set(first)) == 800


def test_a_ring_key_is_named_by_a_part_of_its_digest() -> None:
    assert ring.newest == hashlib.sha256(b"fluxhook/v1/key-id:" + NEW.encode()).hexdigest()[:12]


def test_token_and_secret_hold_256_bits_each() -> None:
    proof = ring.callback_proof("sub_1", ring.newest)

    assert (len(base64.urlsafe_b64decode(proof.token + "=")), len(bytes.fromhex(proof.secret))) == (32, 32)


def test_the_token_does_not_reveal_the_secret() -> None:
    proof = ring.callback_proof("sub_1", ring.newest)

    assert base64.urlsafe_b64decode(proof.token + "=").hex() != proof.secret


def test_every_attempt_has_a_proof_of_its_own() -> None:
    assert len({ring.callback_proof(f"sub_{number}", ring.newest) for number in range(100)}) == 100


def test_every_ring_key_gives_a_proof_of_its_own() -> None:
    assert ring.callback_proof("sub_1", ring.newest) != ring.callback_proof("sub_1", only_old.newest)


def test_the_same_keys_in_another_process_give_the_same_proof() -> None:
    assert KeyRing((NEW,)).callback_proof("sub_1", ring.newest) == ring.callback_proof("sub_1", ring.newest)


def test_a_key_outside_the_ring_is_not_in_it() -> None:
    assert ring.newest not in only_old
    assert only_old.newest in ring


# Proving a token


def test_a_valid_token_returns_its_proof() -> None:
    proof = ring.callback_proof("sub_1", ring.newest)

    assert ring.prove_token("sub_1", proof.token) == proof


def test_a_token_of_an_older_key_is_still_valid() -> None:
    old_proof = only_old.callback_proof("sub_1", only_old.newest)

    assert ring.prove_token("sub_1", old_proof.token) == old_proof


def test_a_token_of_a_retired_key_is_invalid() -> None:
    retired = ring.callback_proof("sub_1", ring.newest)

    assert only_old.prove_token("sub_1", retired.token) is None


def test_the_token_of_another_attempt_is_invalid() -> None:
    other = ring.callback_proof("sub_2", ring.newest)

    assert ring.prove_token("sub_1", other.token) is None


@pytest.mark.parametrize(
    "token",
    ["", "x", "\u00e9" * 43, "\ud800", "\0", "a" * 100_000, "%2e%2e/"],
    ids=["empty", "short", "not ascii", "lone surrogate", "nul", "100 kB", "path"],
)
def test_a_malformed_token_is_invalid(token: str) -> None:
    assert ring.prove_token("sub_1", token) is None


@pytest.mark.parametrize("attempt_id", ["", "\u00e9", "\ud800", "x" * 100_000], ids=["empty", "é", "surrogate", "long"])
def test_a_malformed_attempt_id_is_invalid(attempt_id: str) -> None:
    assert ring.prove_token(attempt_id, "token") is None


def test_an_attempt_id_longer_than_its_column_is_refused_even_with_its_token() -> None:
    longest, too_long = "x" * 48, "x" * 49
    tokens = {name: ring.callback_proof(name, ring.newest).token for name in (longest, too_long)}

    assert ring.prove_token(too_long, tokens[too_long]) is None
    assert ring.prove_token(longest, tokens[longest]) is not None


@given(st.text(max_size=60))
def test_a_guessed_token_is_invalid(token: str) -> None:
    assert ring.prove_token("sub_1", token) is None


# What is kept and what is printed


def test_redacted_bytes_contain_neither_token_nor_secret() -> None:
    proof = CallbackProof(token="the-token", secret="the-secret")

    kept = proof.redact(b'{"url": "/callbacks/sub_1/the-token", "webhook_secret": "the-secret", "again": "the-token"}')

    assert kept == b'{"url": "/callbacks/sub_1/[token]", "webhook_secret": "[secret]", "again": "[token]"}'


def test_what_is_kept_holds_neither_token_nor_secret_in_json_escapes() -> None:
    proof = CallbackProof(token="the-token", secret="the-secret")

    kept = proof.redact(rb'{"url": "\/callbacks\/sub_1\/the\u002dtoken", "webhook_secret": "\u0074he-secret"}')

    assert kept == b'{"url": "/callbacks/sub_1/[token]", "webhook_secret": "[secret]"}'


def test_bytes_without_a_secret_are_not_changed() -> None:
    assert ring.callback_proof("sub_1", ring.newest).redact(b"\x00\xffbytes") == b"\x00\xffbytes"


@pytest.mark.parametrize("show", [repr, str], ids=["repr", "str"])
def test_the_repr_of_a_ring_shows_no_key(show: type[str]) -> None:
    shown = show(ring)

    assert NEW not in shown
    assert OLD not in shown
    assert ring.newest in shown


@pytest.mark.parametrize("show", [repr, str], ids=["repr", "str"])
def test_the_repr_of_a_proof_shows_no_secret(show: type[str]) -> None:
    proof = ring.callback_proof("sub_1", ring.newest)

    assert proof.token not in show(proof)
    assert proof.secret not in show(proof)


# Sealing


@given(st.binary(max_size=200), st.binary(min_size=12, max_size=12))
def test_a_sealed_value_can_be_unsealed(plain: bytes, nonce: bytes) -> None:
    assert ring.unseal(ring.seal(plain, "notify", nonce), "notify") == plain


def test_a_sealed_value_does_not_contain_its_plain_text() -> None:
    sealed = ring.seal(b"a webhook secret", "notify", NONCE)

    _, _, text = sealed.partition(".")
    assert b"secret" not in base64.urlsafe_b64decode(text + "==")


def test_a_sealed_value_names_the_key_it_was_sealed_with() -> None:
    assert ring.seal(b"value", "notify", NONCE).startswith(f"{ring.newest}.")


def test_an_older_key_still_unseals() -> None:
    assert ring.unseal(only_old.seal(b"value", "notify", NONCE), "notify") == b"value"


def test_a_retired_key_unseals_nothing() -> None:
    assert only_old.unseal(ring.seal(b"value", "notify", NONCE), "notify") is None


def test_a_value_sealed_for_one_purpose_is_not_unsealed_for_another() -> None:
    assert ring.unseal(ring.seal(b"value", "notify", NONCE), "session") is None


@given(st.integers(min_value=0))
def test_a_sealed_value_with_one_altered_bit_is_not_unsealed(position: int) -> None:
    signing_key_id, _, text = ring.seal(b"a webhook secret", "notify", NONCE).partition(".")
    raw = bytearray(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    bit = position % (len(raw) * 8)
    raw[bit // 8] ^= 1 << bit % 8

    assert ring.unseal(f"{signing_key_id}.{base64url(bytes(raw))}", "notify") is None


@pytest.mark.parametrize(
    "rest",
    ["", ".", ".A", ".AAAA", ".\u00e9", "." + "A" * 16, ".!!!!", "." + "A" * 100],
    ids=["no text", "empty", "one letter", "short", "not ascii", "only a nonce", "not base64", "zeros"],
)
def test_malformed_text_is_not_unsealed(rest: str) -> None:
    assert ring.unseal(ring.newest + rest, "notify") is None


@given(st.text())
def test_any_text_is_unsealed_or_refused_without_an_error(sealed: str) -> None:
    assert ring.unseal(sealed, "notify") is None
