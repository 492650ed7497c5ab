"""Base64 and data URLs, as clients write them."""

import base64
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidRequest
from app.images.base64 import decode_into


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


@pytest.mark.parametrize(
    "text", ["data:image/png,QUJD", "data:", "data:image/png;base64;QUJD", "data:" + "a" * 2000 + ";base64,QUJD"]
)
def test_a_data_url_that_is_not_base64_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        decoded(text)

    assert refused.value.fields == {"input_image": "not a base64 data URL"}
