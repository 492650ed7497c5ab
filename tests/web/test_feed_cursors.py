"""Cursors of the feed hide its positions."""

import pytest

from app.db.engine.feed_order import START, Position
from app.security.keyring import KeyRing
from app.web.feed_cursors import cursor, event_id, is_cursor, position_of

RING = KeyRing(("a key of the ring that has enough characters",))
POSITIONS = (START, Position(0, 1), Position(731, 2**46 - 1), Position(2**48 - 1, 31))
TEXTS = ["", "1", "1-", "-1", "1-2-3", "x-1", "1-ffffffffffffffff", "1" * 17 + "-1", "A-1"]


@pytest.mark.parametrize("text", TEXTS)
def test_text_that_is_no_cursor_is_parsed_as_none(text: str) -> None:
    assert not is_cursor(text)
    assert position_of(RING, text) is None


def test_a_position_survives_the_conversion_to_text_and_back() -> None:
    for position in POSITIONS:
        texts = [event_id(RING, position), *(cursor(RING, position) for _ in range(100))]
        assert [position_of(RING, text) for text in texts] == [position] * 101
        assert all(is_cursor(text) and len(text) <= 33 for text in texts)


def test_the_id_of_an_event_is_always_the_same_and_a_cursor_is_always_another() -> None:
    (position,) = POSITIONS[1:2]

    assert event_id(RING, position) == event_id(RING, position)
    assert len({event_id(RING, position), *(cursor(RING, position) for _ in range(10))}) > 5


def test_an_older_key_of_the_ring_still_reads_its_cursors() -> None:
    rotated = KeyRing(("a newer key that has enough characters too", "a key of the ring that has enough characters"))
    alone = KeyRing(("a newer key that has enough characters too",))
    text = cursor(RING, POSITIONS[2])

    assert (position_of(rotated, text), position_of(alone, text)) == (POSITIONS[2], None)


def test_a_position_that_is_not_encrypted_is_none() -> None:
    assert [position_of(RING, f"0-{number:x}") for number in range(200)] == [None] * 200
