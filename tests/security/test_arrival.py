"""Digests of a request that arrives as it was sent, or not."""

import pytest

from app.security.arrival import Arrival
from app.security.keyring import KeyRing

HEADERS = {"X-Webhook-Secret": ["a secret"], "X-BFL-Signature": ["sha256=00"]}
SENT = Arrival.of("a-Token_1", b'{ "id": 1.0 }', HEADERS)
KEYS = KeyRing(("a-ring-key-for-tests-only-0123456789",))


def test_a_request_that_arrives_as_it_was_sent_has_no_changes() -> None:
    assert SENT.changes(Arrival.of("a-Token_1", b'{ "id": 1.0 }', HEADERS)) == []


@pytest.mark.parametrize(
    ("arrived", "change"),
    [
        (Arrival.of("a-token_1", b'{ "id": 1.0 }', HEADERS), "changes the path"),
        (
            Arrival.of("a-Token_1", b'{"id":1.0}', HEADERS),
            "changes the bytes of the body, as a proxy does that parses or re-encodes JSON",
        ),
        (
            Arrival.of("a-Token_1", b'{ "id": 1.0 }', {**HEADERS, "X-BFL-Signature": []}),
            "removes the header X-BFL-Signature",
        ),
        (
            Arrival.of("a-Token_1", b'{ "id": 1.0 }', {**HEADERS, "X-Webhook-Secret": ["another"]}),
            "changes the header X-Webhook-Secret",
        ),
    ],
)
def test_each_change_on_the_way_is_named(arrived: Arrival, change: str) -> None:
    assert SENT.changes(arrived) == [change]


def test_only_an_installation_with_the_same_keys_proves_what_arrived() -> None:
    other = KeyRing(("another-ring-key-for-tests-only-012345",))

    assert SENT.is_proven(KEYS, SENT.proof(KEYS))
    assert not SENT.is_proven(other, SENT.proof(KEYS))
    assert not Arrival.of("x", b"", {}).is_proven(KEYS, SENT.proof(KEYS))
