from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.images.signed_links import check, expiry, result_link
from app.security.keyring import KeyRing
from tests.rows import START

KEYS = KeyRing(("a" * 32,))
EXPIRES_AT = START + timedelta(days=7)


def parts(keys: KeyRing = KEYS, task_id: str = "task_1") -> tuple[str, str]:
    query = parse_qs(urlsplit(result_link(keys, task_id, "image/png", EXPIRES_AT, "https://here")).query)
    return query["expires"][0], query["signature"][0]


def test_a_link_names_the_task_and_the_kind_of_file() -> None:
    link = urlsplit(result_link(KEYS, "task_1", "image/jpeg", EXPIRES_AT, "https://here/below"))

    assert (link.scheme, link.netloc, link.path) == ("https", "here", "/below/results/task_1.jpeg")


def test_a_link_is_valid_until_its_expiry() -> None:
    expires, signature = parts()

    assert expiry(expires) == EXPIRES_AT
    assert check(KEYS, "task_1", expires, signature, EXPIRES_AT - timedelta(seconds=1))
    assert not check(KEYS, "task_1", expires, signature, EXPIRES_AT)


def test_a_link_is_valid_only_for_its_task_and_expiry() -> None:
    expires, signature = parts()

    assert not check(KEYS, "task_2", expires, signature, START)
    assert not check(KEYS, "task_1", str(int(expires) + 1), signature, START)


def test_a_link_of_an_older_key_is_valid_while_the_key_is_in_the_ring() -> None:
    expires, signature = parts()

    assert check(KeyRing(("b" * 32, "a" * 32)), "task_1", expires, signature, START)
    assert not check(KeyRing(("b" * 32,)), "task_1", expires, signature, START)


@given(st.text(), st.text(), st.text())
def test_an_invented_signature_is_invalid(task_id: str, expires: str, signature: str) -> None:
    assert not check(KEYS, task_id, expires, signature, START)


@pytest.mark.parametrize("expires", ["", "-1", "1e12", "٣", " 1", "9" * 13], ids=str)
def test_an_expiry_that_is_no_number_of_seconds_is_invalid(expires: str) -> None:
    signature = KEYS.mac(f"task_1.{expires}".encode(), "result-link")

    assert not check(KEYS, "task_1", expires, signature, START)
