"""Image detection with files from Pillow, photos, and files that are not what they claim to be."""

import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from app.images.inspect import EXTENSIONS, MEDIA_TYPES, ImageInfo, NotAnImage, decode, inspect
from tests.pictures import photo

ONE_MEGAPIXEL = 1_000_000
NOISE = Image.effect_noise((60, 40), 90)
TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "MPO": "image/jpeg"}
each_format = pytest.mark.parametrize("form", TYPES)


def file(form: str, mode: str = "RGB", **options: Any) -> bytes:
    out = BytesIO()
    NOISE.convert(mode).save(out, form, **options)
    return out.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_one_bit_pixels(width: int, height: int, packed: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


@each_format
def test_the_format_of_an_image_is_detected_from_its_bytes(form: str) -> None:
    assert inspect(BytesIO(file(form))) == ImageInfo(TYPES[form], 60, 40)


@each_format
def test_a_complete_image_is_decoded(form: str) -> None:
    assert decode(BytesIO(file(form)), max_pixels=ONE_MEGAPIXEL) == ImageInfo(TYPES[form], 60, 40)


def test_a_multi_picture_file_of_a_phone_is_a_jpeg() -> None:
    two = file("MPO", save_all=True, append_images=[NOISE.convert("RGB")])

    assert decode(BytesIO(two), max_pixels=ONE_MEGAPIXEL) == ImageInfo("image/jpeg", 60, 40)


@pytest.mark.parametrize(
    ("form", "mode", "options"),
    [
        ("PNG", "1", {}),
        ("PNG", "P", {}),
        ("PNG", "LA", {}),
        ("PNG", "RGBA", {}),
        ("PNG", "I;16", {}),
        ("JPEG", "L", {}),
        ("JPEG", "CMYK", {}),
        ("JPEG", "RGB", {"progressive": True}),
        ("WEBP", "RGBA", {"lossless": True}),
    ],
    ids=["1 bit", "palette", "grey alpha", "alpha", "16 bit", "grey", "cmyk", "progressive", "lossless"],
)
def test_every_pixel_mode_is_decoded(form: str, mode: str, options: dict[str, Any]) -> None:
    assert decode(BytesIO(file(form, mode, **options)), max_pixels=ONE_MEGAPIXEL).pixels == 2400


def test_the_position_in_the_file_does_not_matter() -> None:
    read_to_the_end = BytesIO(file("PNG"))
    read_to_the_end.read()

    assert decode(read_to_the_end, max_pixels=ONE_MEGAPIXEL).width == 60


@each_format
def test_decoding_does_not_close_the_file(form: str) -> None:
    given = BytesIO(file(form))
    decode(given, max_pixels=ONE_MEGAPIXEL)
    given.seek(0)

    assert given.read() == file(form)


@each_format
def test_a_camera_photo_is_decoded_with_its_stored_size(form: str) -> None:
    assert decode(BytesIO(photo(form)), max_pixels=ONE_MEGAPIXEL) == ImageInfo(TYPES[form], 512, 384)


def test_a_decompression_bomb_is_refused_before_it_is_decoded() -> None:
    row = bytes(1 + 10_000 // 8)
    bomb = png_of_one_bit_pixels(10_000, 10_000, zlib.compress(row * 10_000, 9))
    assert len(bomb) < 20_000

    with pytest.raises(NotAnImage, match="10000x10000 is more than 1000000 pixels"):
        decode(BytesIO(bomb), max_pixels=ONE_MEGAPIXEL)


def test_the_header_of_a_huge_image_can_still_be_read() -> None:
    huge = png_of_one_bit_pixels(60_000, 60_000, b"")

    assert inspect(BytesIO(huge)).pixels == 3_600_000_000


def test_an_image_at_the_pixel_limit_is_accepted() -> None:
    assert decode(BytesIO(file("PNG")), max_pixels=2400).pixels == 2400


def test_an_image_one_pixel_above_the_limit_is_refused() -> None:
    with pytest.raises(NotAnImage):
        decode(BytesIO(file("PNG")), max_pixels=2399)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\0" * 100,
        b"<!doctype html><title>502 Bad Gateway</title>",
        b'{"error": {"message": "expired"}}',
        b"<?xml version='1.0'?><Error><Code>AuthenticationFailed</Code></Error>",
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
        b"RIFF\x00\x00\x00\x00WEBP",
        b"%PDF-1.7",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    ],
    ids=["nothing", "zeros", "html", "json", "azure error", "jpeg magic", "png magic", "webp magic", "pdf", "svg"],
)
def test_a_file_that_is_not_an_image_is_refused(raw: bytes) -> None:
    with pytest.raises(NotAnImage):
        inspect(BytesIO(raw))


def test_an_html_page_is_not_an_image(tmp_path: Path) -> None:
    page = tmp_path / "result.png"
    page.write_bytes(b"<!doctype html><title>Not found</title>")

    with page.open("rb") as opened, pytest.raises(NotAnImage, match="not a JPEG, PNG or WebP image"):
        inspect(opened)


@pytest.mark.parametrize("form", ["GIF", "BMP", "TIFF", "ICO", "PPM", "TGA"])
def test_another_format_is_refused(form: str) -> None:
    with pytest.raises(NotAnImage, match="not a JPEG, PNG or WebP image"):
        inspect(BytesIO(file(form)))


def test_an_animated_gif_is_refused() -> None:
    moving = file("GIF", save_all=True, append_images=[NOISE.rotate(90)])

    with pytest.raises(NotAnImage, match="not a JPEG, PNG or WebP image"):
        decode(BytesIO(moving), max_pixels=ONE_MEGAPIXEL)


@pytest.mark.parametrize("part", [0.25, 0.5, 0.9], ids="{:.0%}".format)
@each_format
def test_a_truncated_image_is_refused(form: str, part: float) -> None:
    whole = file(form)

    with pytest.raises(NotAnImage):
        decode(BytesIO(whole[: int(len(whole) * part)]), max_pixels=ONE_MEGAPIXEL)


@pytest.mark.parametrize("bytes_missing", [1, 4, 12, 20])
@each_format
def test_an_image_whose_last_bytes_are_missing_is_refused(form: str, bytes_missing: int) -> None:
    with pytest.raises(NotAnImage):
        decode(BytesIO(file(form)[:-bytes_missing]), max_pixels=ONE_MEGAPIXEL)


def test_an_animation_truncated_after_its_first_frame_is_refused() -> None:
    moving = file("PNG", save_all=True, append_images=[NOISE.rotate(90)])

    assert decode(BytesIO(moving), max_pixels=ONE_MEGAPIXEL).width == 60
    with pytest.raises(NotAnImage, match="cut off or damaged"):
        decode(BytesIO(moving[:-2000]), max_pixels=ONE_MEGAPIXEL)


def test_bytes_after_a_complete_image_are_ignored() -> None:
    assert decode(BytesIO(file("PNG") + b"what an editor left"), max_pixels=ONE_MEGAPIXEL).width == 60


def test_a_truncated_jpeg_is_detected_only_by_decoding() -> None:
    cut = BytesIO(file("JPEG")[:-200])

    assert inspect(cut).width == 60
    with pytest.raises(NotAnImage, match="cut off or damaged"):
        decode(cut, max_pixels=ONE_MEGAPIXEL)


def test_every_media_type_has_an_extension() -> None:
    assert set(EXTENSIONS) == set(MEDIA_TYPES.values())


@given(st.sampled_from([b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"RIFF\x40\0\0\0WEBPVP8 "]), st.binary())
def test_random_bytes_raise_no_error_but_not_an_image(magic: bytes, rest: bytes) -> None:
    with pytest.raises(NotAnImage):
        decode(BytesIO(magic + rest), max_pixels=ONE_MEGAPIXEL)


FILES = {form: file(form) for form in TYPES}


@pytest.mark.filterwarnings("ignore:.*:UserWarning:PIL")  # Pillow warns about repairable damage
@given(st.sampled_from(sorted(FILES)), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=8))
def test_a_damaged_image_raises_no_error_but_not_an_image(form: str, damage: list[tuple[int, int]]) -> None:
    raw = bytearray(FILES[form])
    for place, value in damage:
        raw[place] = value
    try:
        assert decode(BytesIO(raw), max_pixels=ONE_MEGAPIXEL).media_type == TYPES[form]
    except NotAnImage as refused:
        assert str(refused)  # noqa: PT017 - both ends are right
