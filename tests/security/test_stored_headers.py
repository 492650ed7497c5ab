"""The stored headers of a callback: always valid JSON, and never a secret that could forge a callback."""

import json
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from app.security.keyring import KeyRing
from app.security.stored_headers import stored_headers

RING = KeyRing(("a-ring-key-for-tests-0123456789abcdef",))
PROOF = RING.callback_proof("sub_1", RING.newest)
TOKEN, SECRET = PROOF.token.encode(), PROOF.secret.encode()
# Long enough for a secret to span the position at which a value is cut.
WORDS = st.lists(
    st.sampled_from([TOKEN, SECRET, b"v" * 200, b"\\u0000", b'"', b"\0", b"\xe9"]) | st.binary(max_size=40)
)
NAMES = st.sampled_from([b"x-a", b"X-A", b"host", b"Cookie", b"x-webhook-secret"]) | WORDS.map(b"".join)


@given(st.lists(st.tuples(NAMES, WORDS.map(b"".join)), max_size=70))
def test_any_headers_are_stored_as_json_without_token_and_secret(headers: list[tuple[bytes, bytes]]) -> None:
    text = stored_headers(headers, PROOF)
    kept = json.loads(text)

    assert all(isinstance(value, str) for value in kept.values())
    assert len(kept) <= 60
    assert PROOF.token not in text
    assert PROOF.secret not in text
    assert all(SECRET[:20].decode() not in value for value in kept.values())
    assert max(map(len, [*kept, *kept.values()]), default=0) <= 300
    assert "\0" not in "".join([*kept, *kept.values()])
    assert kept.get("cookie", "[not kept]") == kept.get("x-webhook-secret", "[not kept]") == "[not kept]"


def test_the_cache_of_headers_is_bounded_however_long_they_are() -> None:
    tracemalloc.start()
    for number in range(50):
        stored_headers([(b"x-%d" % number + b"n" * 100_000, b"v" * 100_000)], PROOF)
    remembered, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert remembered < 1_000_000


def test_usual_headers_are_stored_unchanged() -> None:
    headers = [(b"host", b"hooks.example"), (b"x-odd", b'a "quoted" \\ and \xe9'), (b"x-odd-too", b"")]
    kept = json.loads(stored_headers(headers, PROOF))

    assert kept == {"host": "hooks.example", "x-odd": 'a "quoted" \\ and \xe9', "x-odd-too": ""}
    assert stored_headers([], PROOF) == "{}"
