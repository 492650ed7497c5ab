"""Long texts are taken out of a JSON body: what is left means the same, and is short."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import MalformedRequest
from app.web.large_json import parse
from app.web.long_texts import LONG, shorten

# What may stand in a body, valid or not: long and short texts, what looks like the end of one, and structure.
FRAGMENTS = st.sampled_from(
    [
        b'"',
        b"\\",
        b'\\"',
        b"A" * LONG,
        b"7" * (LONG + 4000),
        b" " * LONG,
        b"1," * LONG,
        b"\xff" * LONG,
        b"/" * (2 * LONG),
        b"data:image/png;base64," + b"B" * LONG,
        b'{"a": "',
        b'", "b": "',
        b'"}',
        b"[",
        b'["',
        b'"]',
        b"]",
        b":",
        b",",
        b"a",
    ]
)
TEXTS = st.sampled_from(
    ["", "a", "A" * LONG, "A" * (LONG - 1), "\\" + "n" * LONG, '"' + "q" * LONG, "ü" * LONG, "=" * LONG]
)
VALUES = st.recursive(
    TEXTS | st.none() | st.integers(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)


def outcome(body: bytes) -> Any:
    try:
        return parse(body)
    except MalformedRequest as error:
        return str(error)


@given(st.lists(FRAGMENTS, max_size=12).map(b"".join))
def test_a_shortened_body_is_valid_exactly_if_the_body_is(body: bytes) -> None:
    shortened = shorten(body)

    assert shortened.restored(shortened.body) == body
    assert isinstance(outcome(shortened.body), str) == isinstance(outcome(body), str) or b"\xff" in body


@given(VALUES, st.booleans(), st.sampled_from([None, 1]))
def test_a_body_is_restored_after_it_was_parsed_and_written_again(
    value: Any,
    ascii_only: bool,
    indent: int | None,
) -> None:
    shortened = shorten(json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode())

    assert json.loads(shortened.restored(json.dumps(json.loads(shortened.body)).encode())) == value


@pytest.mark.parametrize("length", [LONG, LONG + 1, 20 * LONG + 77])
@pytest.mark.parametrize("before", range(0, LONG, 1777))
def test_a_long_image_is_taken_out_wherever_it_is(length: int, before: int) -> None:
    image = b"Q" * length
    body = b'{"prompt": "%b", "input_image": "%b", "seed": 1}' % (b" " * before, image)

    shortened = shorten(body)

    assert [bytes(text) for text in shortened.texts.values()] == [image]
    assert len(shortened.body) < before + 200


def test_a_text_that_looks_like_a_mark_stays_what_it_is() -> None:
    body = b'["%b", "%b"]' % (b"A" * LONG, next(iter(shorten(b'"%b"' % (b"A" * LONG)).texts)).encode())

    shortened = shorten(body)

    assert shortened.restored(shortened.body) == body
