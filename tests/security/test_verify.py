"""Verification of callbacks. Expected signatures are computed here, not by `app.security.sign`."""

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.security.verify import Headers, SigningProfile, Verdict, verify

SECRET = "0f" * 32
BODY = b'{"id": "task-1", "status": "Ready"}'
PROFILE = SigningProfile()
HEX = hmac.new(SECRET.encode(), BODY, hashlib.sha256).hexdigest().encode()
SIGNED, PLAIN = b"X-BFL-Signature", b"X-Webhook-Secret"


def judge(*headers: tuple[bytes, bytes], body: bytes = BODY, secret: str = SECRET) -> Verdict:
    return verify(body, headers, secret, PROFILE)


def test_the_published_example_of_the_scheme_is_signed() -> None:
    # GitHub's own test values for X-Hub-Signature-256 ("Validating webhook deliveries").
    signature = b"sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"

    verdict = judge((SIGNED, signature), body=b"Hello, World!", secret="It's a Secret to Everybody")

    assert verdict is Verdict.SIGNED


@pytest.mark.parametrize(
    "signature",
    [b"sha256=" + HEX, HEX, b"sha256=" + HEX.upper(), HEX.upper()],
    ids=["as published", "no prefix", "upper case", "upper case, no prefix"],
)
def test_a_valid_signature_is_signed_in_every_known_form(signature: bytes) -> None:
    assert judge((SIGNED, signature)) is Verdict.SIGNED


@pytest.mark.parametrize("name", [b"x-bfl-signature", b"X-BFL-SIGNATURE", b"X-Bfl-Signature"], ids=bytes.decode)
def test_the_case_of_the_signature_header_does_not_matter(name: bytes) -> None:
    assert judge((name, HEX)) is Verdict.SIGNED


@pytest.mark.parametrize(
    "signature",
    [
        b"",
        b"sha256=",
        HEX[:-1],
        HEX + b"0",
        HEX[::-1],
        b"0x" + HEX,
        b"sha1=" + HEX,
        b"sha256=sha256=" + HEX,
        b"sha256= " + HEX,
        HEX + b"\n",
        b"z" * 64,
        b"\xff" * 64,
        "\u00e9".encode() * 32,
        b"a" * 100_000,
        hashlib.sha256(BODY).hexdigest().encode(),
        SECRET.encode(),
    ],
    ids=[
        "empty",
        "prefix only",
        "cut",
        "longer",
        "reversed",
        "0x",
        "other prefix",
        "prefix twice",
        "space",
        "line end",
        "not hex",
        "not ascii",
        "utf-8",
        "100 kB",
        "digest without the secret",
        "the secret itself",
    ],
)
def test_a_wrong_signature_is_forged(signature: bytes) -> None:
    assert judge((SIGNED, signature)) is Verdict.FORGED


def test_the_signature_of_other_bytes_is_forged() -> None:
    assert judge((SIGNED, HEX), body=BODY + b" ") is Verdict.FORGED


def test_the_signature_under_another_secret_is_forged() -> None:
    assert judge((SIGNED, HEX), secret="f0" * 32) is Verdict.FORGED


@pytest.mark.parametrize("second", [HEX, b"0" * 64], ids=["right", "wrong"])
def test_two_signatures_are_forged_even_if_both_are_valid(second: bytes) -> None:
    assert judge((SIGNED, HEX), (b"x-bfl-signature", second)) is Verdict.FORGED


def test_a_wrong_signature_is_forged_even_with_the_plain_secret() -> None:
    assert judge((PLAIN, SECRET.encode()), (SIGNED, b"0" * 64)) is Verdict.FORGED


def test_a_valid_signature_counts_even_with_a_wrong_plain_secret() -> None:
    assert judge((PLAIN, b"wrong"), (SIGNED, HEX)) is Verdict.SIGNED


@pytest.mark.parametrize("name", [b"x-webhook-secret", b"X-Webhook-Secret"], ids=bytes.decode)
def test_the_plain_secret_is_a_verdict_of_its_own(name: bytes) -> None:
    assert judge((name, SECRET.encode())) is Verdict.SHARED_SECRET


@pytest.mark.parametrize(
    "told",
    [b"", b"wrong", SECRET.encode()[:-1], SECRET.upper().encode(), b"\xff", SECRET.encode() + b" "],
    ids=["empty", "other", "cut", "upper case", "not ascii", "space"],
)
def test_a_wrong_plain_secret_is_forged(told: bytes) -> None:
    assert judge((PLAIN, told)) is Verdict.FORGED


def test_the_plain_secret_sent_twice_is_forged() -> None:
    assert judge((PLAIN, SECRET.encode()), (PLAIN, SECRET.encode())) is Verdict.FORGED


def test_a_callback_with_nothing_to_check_is_unproven() -> None:
    assert judge((b"content-type", b"application/json"), (b"x-bfl-signature-v2", HEX)) is Verdict.UNPROVEN


def test_an_empty_secret_signs_nothing() -> None:
    signature = hmac.new(b"", BODY, hashlib.sha256).hexdigest().encode()

    assert judge((SIGNED, signature), secret="") is Verdict.FORGED


def test_an_empty_secret_is_not_proven_by_an_empty_header() -> None:
    assert judge((PLAIN, b""), secret="") is Verdict.FORGED


def test_another_profile_reads_other_headers() -> None:
    profile = SigningProfile(signature_header=b"x-signature", secret_header=b"x-secret")

    assert verify(BODY, [(b"X-Signature", HEX)], SECRET, profile) is Verdict.SIGNED
    assert verify(BODY, [(SIGNED, HEX)], SECRET, profile) is Verdict.UNPROVEN


NAMES = st.sampled_from([SIGNED, PLAIN, b"x-bfl-signature", b"x-webhook-secret"]) | st.binary(max_size=20)
VALUES = st.binary(max_size=80) | st.sampled_from([HEX, b"sha256=" + HEX])
CALLBACKS = st.tuples(
    st.binary(max_size=80).filter(lambda body: body != BODY), st.lists(st.tuples(NAMES, VALUES), max_size=4)
)


@given(st.lists(CALLBACKS, min_size=20, max_size=20))
def test_random_callbacks_each_have_a_verdict_and_none_is_accepted(
    callbacks: list[tuple[bytes, Headers]],
) -> None:
    verdicts = {verify(body, headers, SECRET, PROFILE) for body, headers in callbacks}

    assert verdicts <= {Verdict.UNPROVEN, Verdict.FORGED}


@given(st.binary(min_size=1, max_size=200), st.integers(min_value=0))
def test_one_flipped_bit_in_the_body_is_forged(body: bytes, position: int) -> None:
    signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest().encode()

    assert judge((SIGNED, signature), body=flipped(body, position)) is Verdict.FORGED


@given(st.integers(min_value=0))
def test_one_flipped_bit_in_the_signature_is_forged(position: int) -> None:
    signature = hmac.digest(SECRET.encode(), BODY, "sha256")

    assert judge((SIGNED, flipped(signature, position).hex().encode())) is Verdict.FORGED


@given(st.integers(min_value=0))
def test_one_flipped_bit_in_the_plain_secret_is_forged(position: int) -> None:
    assert judge((PLAIN, flipped(SECRET.encode(), position))) is Verdict.FORGED


def flipped(raw: bytes, position: int) -> bytes:
    bit = position % (len(raw) * 8)
    changed = bytearray(raw)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
