"""The structure of image files from Pillow, and of files that are made to cost time or memory."""

import struct
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from app.images import structure
from app.images.inspect import NotAnImage
from tests.pictures import chunk, photo, picture, with_chunks

NOISE = Image.effect_noise((60, 40), 90)
MEDIA_TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "MPO": "image/jpeg"}
JPEG_COMMENT = b"\xff\xfe\0\x02"
SECOND = NOISE.convert("RGB").rotate(90)


def file(form: str, **options: Any) -> bytes:
    out = BytesIO()
    NOISE.convert("RGB").save(out, form, **options)
    return out.getvalue()


def kept(data: bytes) -> bytes:
    return b"".join(data[start:end] for start, end in structure.read(data).parts)


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("MPO", {"save_all": True, "append_images": [SECOND]}),
        ("PNG", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"exif": b"Exif\0\0MM\0*"}),
    ],
    ids=["JPEG", "progressive", "MPO", "PNG", "WebP", "lossless WebP", "extended WebP"],
)
def test_type_and_size_are_read(form: str, options: dict[str, Any]) -> None:
    found = structure.read(file(form, **options))

    assert (found.media_type, found.width, found.height) == (MEDIA_TYPES[form], 60, 40)
    assert not found.is_animated


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_metadata_is_not_among_the_parts_for_the_decoder(form: str) -> None:
    exif = Image.Exif()
    exif[0x010E] = "what a user wrote"
    data = file(form, exif=exif, icc_profile=b"a profile" * 1000, comment="a comment")

    assert b"what a user wrote" in structure.read(data).exif
    assert b"what a user wrote" not in kept(data)
    assert len(kept(data)) <= len(kept(file(form))) + 2


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_an_animation_is_recognised(form: str) -> None:
    assert structure.read(file(form, save_all=True, append_images=[SECOND])).is_animated


def test_a_phones_second_picture_is_not_read() -> None:
    two = file("MPO", save_all=True, append_images=[SECOND])

    assert len(kept(two)) < len(file("JPEG"))


def test_only_the_first_header_of_a_png_counts() -> None:
    lying = with_chunks(picture(), chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)))

    assert structure.read(lying).width == 320
    assert kept(lying) == kept(picture())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"", "not a JPEG, PNG or WebP image", id="nothing"),
        pytest.param(b"GIF89a", "GIF is not supported: convert it to JPEG, PNG or WebP", id="GIF"),
        pytest.param(b"\xff\xd8\xff", "the image's header is broken", id="start of a JPEG"),
        pytest.param(b"\xff\xd8\xff\xd9", "the image's header is broken", id="empty JPEG"),
        pytest.param(b"\x89PNG\r\n\x1a\n", "the image's header is broken", id="start of a PNG"),
        pytest.param(b"\x89PNG\r\n\x1a\n" + chunk(b"CgBI", bytes(4)), "the image's header is broken", id="CgBI"),
        pytest.param(b"RIFF\0\0\0\0WEBP", "the image's header is broken", id="start of a WebP"),
        pytest.param(photo()[:300], "the image is cut off or damaged", id="cut tables"),
    ],
)
def test_a_file_without_a_whole_header_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(NotAnImage) as refused:
        structure.read(data)

    assert str(refused.value) == reason


def test_a_jpeg_with_hundreds_of_scans_is_refused() -> None:
    data = photo(progressive=True)
    last_scan = data[data.rindex(b"\xff\xda") : -2]

    structure.read(data[:-2] + last_scan * 30 + data[-2:])
    with pytest.raises(NotAnImage, match="a JPEG may have at most 50 scans"):
        structure.read(data[:-2] + last_scan * 100 + data[-2:])


def test_what_looks_like_scans_behind_the_end_of_a_jpeg_does_not_count() -> None:
    assert structure.read(photo() + b"\xff\xda\0\x08" * 10_000).width == 512


def test_what_looks_like_an_end_inside_metadata_does_not_end_a_jpeg() -> None:
    comment = b"\xff\xd9\xff\xda" * 100
    data = file("JPEG", comment=comment)

    assert kept(data) == kept(file("JPEG"))


@pytest.mark.parametrize(
    "bomb",
    [
        pytest.param(photo()[:2] + JPEG_COMMENT * 5_000_000 + photo()[2:], id="JPEG of comments"),
        pytest.param(with_chunks(picture(), chunk(b"tEXt", b"") * 1_600_000), id="PNG of texts"),
        pytest.param(b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(10) + b"ANMF\0\0\0\0" * 2_000_000, id="WebP of frames"),
    ],
)
def test_a_file_of_millions_of_parts_is_refused(bomb: bytes) -> None:
    with pytest.raises(NotAnImage, match="may have at most 65536"):
        structure.read(bomb)


@pytest.mark.parametrize("filler", [b"\xff", b"\0", b"\xff\0"], ids=["FF", "zeros", "escapes"])
def test_bytes_between_the_segments_of_a_jpeg_are_passed_over(filler: bytes) -> None:
    data = photo()
    tables = data.index(b"\xff\xdb")

    assert kept(data[:tables] + filler * 1_000_000 + data[tables:]) == kept(data)


@given(st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"RIFF\0\0\0\0WEBPVP8X"]), st.binary())
def test_random_bytes_have_a_structure_or_are_refused(magic: bytes, rest: bytes) -> None:
    try:
        found = structure.read(magic + rest)
    except NotAnImage:
        return
    assert all(start < end for start, end in found.parts)


FILES = [file("JPEG"), file("JPEG", progressive=True), file("PNG"), file("WEBP", exif=b"Exif\0\0MM\0*")]


@given(st.sampled_from(FILES), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=8))
def test_a_damaged_file_has_a_structure_or_is_refused(whole: bytes, damage: list[tuple[int, int]]) -> None:
    raw = bytearray(whole)
    for place, value in damage:
        raw[place] = value
    try:
        assert structure.read(bytes(raw)).media_type in MEDIA_TYPES.values()
    except NotAnImage as refused:
        assert str(refused)  # noqa: PT017 - both ends are right
