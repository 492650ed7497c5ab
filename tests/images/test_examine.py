"""What is wrong with a result is stated, and nothing is refused or raises."""

import random  # noqa: TID251 - noise that is the same in each run
import struct
import zlib
from io import BytesIO
from tempfile import TemporaryFile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.images.examine import UNKNOWN, extension_of, find_problem, is_text, read_header
from app.images.inspect import ImageInfo
from tests.pictures import claims, large_profile, picture, with_chunk

MAX_PIXELS = 1_000_000
METADATA = "its pixels are complete, but its metadata is damaged or too large to be read"
BIG = zlib.compress(bytes(2_000_000))
JPEG = picture(form="JPEG")


def examined(raw: bytes) -> tuple[ImageInfo, str | None]:
    file = BytesIO(raw)
    info = read_header(file, TemporaryFile)
    return info, find_problem(file, TemporaryFile, info, max_pixels=MAX_PIXELS)


def segment(marker: int, data: bytes) -> bytes:
    """A JPEG with one more segment at its start."""
    return JPEG[:2] + struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data + JPEG[2:]


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_a_whole_image_has_no_problem(form: str) -> None:
    assert examined(picture(form=form)) == (ImageInfo(f"image/{form.lower()}", 320, 256), None)


@pytest.mark.parametrize(
    "raw",
    [
        large_profile(),
        with_chunk(b"zTXt", b"key\0\0" + BIG),
        with_chunk(b"iTXt", b"key\0\1\0\0\0" + BIG),
        with_chunk(b"tEXt", b"key\0value", damaged=True),
        with_chunk(b"iCCP", b"profile\0\1unknown compression"),
        with_chunk(b"gAMA", b"1"),
        with_chunk(b"pHYs", b"1"),
        with_chunk(b"acTL", b"1"),
        with_chunk(b"tRNS", b"1"),
        picture()[:-12] + with_chunk(b"zTXt", b"key\0\0" + BIG)[33 : 33 + 12 + 5 + len(BIG)] + picture()[-12:],
        segment(0xE2, b"ICC_PROFILE\0"),
        segment(0xEE, b"Adobe"),
        segment(0xE0, b"JFIF"),
    ],
    ids=[
        *("large profile", "large text", "large international text", "checksum", "profile", "gamma", "density"),
        *("animation", "transparency", "large text at the end", "jpeg profile", "adobe", "jfif"),
    ],
)
def test_metadata_that_a_decoder_stops_at_leaves_the_pixels_complete(raw: bytes) -> None:
    info, problem = examined(raw)

    assert (info.width, info.height, problem) == (320, 256, METADATA)


@pytest.mark.parametrize("missing", [1, 2])
def test_a_jpeg_without_its_end_marker_may_be_cut_off(missing: int) -> None:
    assert examined(JPEG[:-missing]) == (
        ImageInfo("image/jpeg", 320, 256),
        "its end marker is missing, so it may be cut off",
    )


@pytest.mark.parametrize(
    ("raw", "info", "problem"),
    [
        (picture()[:-40], ImageInfo("image/png", 320, 256), "the image is cut off or damaged"),
        (picture(form="WEBP")[:-1], ImageInfo("image/webp", 0, 0), "the image's header is broken"),
        (claims(60_000, 60_000), ImageInfo("image/png", 60_000, 60_000), "60000x60000 is more than 1000000 pixels"),
        (b"\x89PNG\r\n\x1a\n", ImageInfo("image/png", 0, 0), "not a JPEG, PNG or WebP image"),
        (b"\xff\xd8\xff", ImageInfo("image/jpeg", 0, 0), "its end marker is missing, so it may be cut off"),
        (picture(form="GIF"), ImageInfo(UNKNOWN, 0, 0), "not a JPEG, PNG or WebP image"),
        (bytes(100), ImageInfo(UNKNOWN, 0, 0), "not a JPEG, PNG or WebP image"),
        (b"", ImageInfo(UNKNOWN, 0, 0), "not a JPEG, PNG or WebP image"),
    ],
    ids=["cut", "webp", "huge", "png magic", "jpeg magic", "gif", "zeros", "empty"],
)
def test_what_cannot_be_decoded_is_described_as_far_as_it_is_known(raw: bytes, info: ImageInfo, problem: str) -> None:
    assert examined(raw) == (info, problem)


def test_a_huge_number_of_chunks_is_not_followed_without_end() -> None:
    many = with_chunk(b"gAMA", b"1").replace(b"IDAT", b"junk", 1)

    assert examined(many[:-12] + bytes(12 * 200_000) + many[-12:])[1] is not None


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", True),
        (b"<!doctype html><title>502 Bad Gateway</title>", True),
        (b'{"error": "expired"}', True),
        ("\ufeff<Error>\u00e9</Error>".encode(), True),
        ("<html>\u00e9".encode("latin-1"), True),
        (picture(), False),
        (bytes(10), False),
        (b"text\0", False),
    ],
    ids=["nothing", "html", "json", "utf-8", "latin-1", "png", "zeros", "nul"],
)
def test_text_is_told_from_binary_data(raw: bytes, *, expected: bool) -> None:
    assert is_text(BytesIO(raw)) == expected


def test_random_bytes_are_no_text() -> None:
    assert not is_text(BytesIO(random.Random(1).randbytes(4096)))  # noqa: S311 - no secret


@pytest.mark.parametrize(
    ("media_type", "extension"),
    [("image/png", "png"), ("image/jpeg", "jpeg"), ("image/webp", "webp"), (UNKNOWN, "bin")],
)
def test_each_media_type_has_an_extension(media_type: str, extension: str) -> None:
    assert extension_of(media_type) == extension


ODD = [large_profile(), segment(0xE2, b"ICC_PROFILE\0"), picture(form="WEBP")]


@pytest.mark.filterwarnings("ignore:.*:UserWarning:PIL")  # Pillow warns about repairable damage
@given(st.sampled_from(ODD), st.lists(st.tuples(st.integers(0, 1500), st.integers(0, 255)), max_size=8), st.integers(0))
def test_any_damage_is_described_and_raises_nothing(raw: bytes, damage: list[tuple[int, int]], cut: int) -> None:
    changed = bytearray(raw)
    for place, value in damage:
        changed[place % len(changed)] = value
    info, problem = examined(bytes(changed[: cut % len(changed)] if cut else changed))

    assert info.pixels > 0 or problem
