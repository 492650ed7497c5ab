"""Base64 and data URLs, as clients write them."""

import base64
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidRequest
from app.images.base64 import decode_into, decode_plain


def decoded(text: str) -> bytes:
    file = BytesIO()
    decode_into(file, "input_image", text)
    return file.getvalue()


@given(
    data=st.binary(max_size=100) | st.integers(0, 200_000).map(bytes),
    start=st.sampled_from(["", " \n", "data:image/png;base64,", " DATA:image/jpeg; name=a; Base64 ,"]),
    width=st.integers(1, 100_000),
)
def test_bytes_written_in_any_form_are_read_back(data: bytes, start: str, width: int) -> None:
    text = base64.b64encode(data).decode()
    lines = "\r\n".join(text[at : at + width] for at in range(0, len(text), width)) if len(text) < 10**4 else text

    assert decoded(start + lines) == data


@pytest.mark.parametrize(
    "text",
    ["QUJ", "QUJD?", "QUJDé", "QQ==QUJD", "QQ==" + " " * 70_000 + "QUJD", "A" * 70_001, "=", "QUJD\0", "QUJD-_"],
)
def test_what_is_not_base64_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        decoded(text)

    assert refused.value.fields == {"input_image": "not valid base64"}


@given(
    data=st.binary(max_size=100) | st.integers(0, 200_000).map(bytes),
    start=st.sampled_from(["", "\n", "data:image/png;base64,", "data:image/png,", "DATA:;Base64 ,", "data:;base64"]),
    end=st.sampled_from(["", "=", "QQ==", "\n", "A", "\u00e9", "?"]),
)
def test_bytes_are_decoded_without_copies_or_left_to_the_other_reader(data: bytes, start: str, end: str) -> None:
    text = start + base64.b64encode(data).decode() + end
    file = BytesIO()

    is_decoded = decode_plain(file, memoryview(text.encode()))

    assert file.getvalue() == (decoded(text) if is_decoded else b"")
    assert is_decoded or start != "data:image/png;base64," or end


def test_a_text_that_goes_on_behind_its_padding_is_not_decoded() -> None:
    whole_piece = base64.b64encode(bytes(49_151)).decode()

    assert not decode_plain(BytesIO(), memoryview((whole_piece + "QUJD").encode()))


@pytest.mark.parametrize(
    "text", ["data:image/png,QUJD", "data:", "data:image/png;base64;QUJD", "data:" + "a" * 2000 + ";base64,QUJD"]
)
def test_a_data_url_that_is_not_base64_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        decoded(text)

    assert refused.value.fields == {"input_image": "not a base64 data URL"}
