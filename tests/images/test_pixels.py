"""Decoding input images: whole, cut off and damaged ones, and turning them upright."""

import zlib
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageOps, ImageStat

from app.images import pixels, structure
from app.images.inspect import NotAnImage
from tests.pictures import chunk, photo, picture, with_chunks

NOISE = Image.effect_noise((120, 90), 90)
PROFILE = b"a colour profile" * 100


def file(form: str, mode: str = "RGB", size: tuple[int, int] = (120, 90), **options: Any) -> bytes:
    out = BytesIO()
    NOISE.convert("RGB").resize(size).convert(mode).save(out, form, **options)
    return out.getvalue()


def decode(data: bytes) -> None:
    pixels.decode(data, structure.read(data))


def is_refused(data: bytes) -> bool:
    try:
        decode(data)
    except NotAnImage:
        return True
    return False


WHOLE = {
    "JPEG": file("JPEG"),
    "grey JPEG": file("JPEG", "L"),
    "CMYK JPEG": file("JPEG", "CMYK"),
    "best JPEG": file("JPEG", quality=100, subsampling=0),
    "poor JPEG": file("JPEG", quality=5),
    "progressive JPEG": file("JPEG", progressive=True),
    "JPEG with restarts": file("JPEG", restart_marker_blocks=2),
    "JPEG of one pixel": file("JPEG", size=(1, 1)),
    "JPEG of one row": file("JPEG", size=(77, 1)),
    "JPEG of a phone": file("MPO", save_all=True, append_images=[NOISE.convert("RGB")]),
    "photo": photo(),
    "PNG": file("PNG"),
    "1 bit PNG": file("PNG", "1"),
    "palette PNG": file("PNG", "P", transparency=3),
    "16 bit PNG": file("PNG", "I;16"),
    "alpha PNG": file("PNG", "RGBA"),
    "animated PNG": file("PNG", save_all=True, append_images=[NOISE.rotate(90)]),
    "WebP": file("WEBP"),
    "lossless WebP": file("WEBP", "RGBA", lossless=True),
    "animated WebP": file("WEBP", save_all=True, append_images=[NOISE.rotate(90)]),
}
each_whole = pytest.mark.parametrize("data", WHOLE.values(), ids=WHOLE.keys())


@each_whole
def test_a_whole_image_is_decoded(data: bytes) -> None:
    decode(data)


@each_whole
def test_bytes_behind_an_image_do_no_harm(data: bytes) -> None:
    decode(data + b"\xff\xda what an editor left \xff\xd9")


@pytest.mark.parametrize("part", [0.5, 0.75, 0.9], ids="{:.0%}".format)
@pytest.mark.parametrize(
    "data",
    [file(form, size=(480, 360), **options) for form, options in (
        ("JPEG", {}), ("JPEG", {"progressive": True}), ("JPEG", {"restart_marker_blocks": 4}), ("PNG", {}), ("WEBP", {})
    )],
    ids=["JPEG", "progressive JPEG", "JPEG with restarts", "PNG", "WebP"],
)  # fmt: skip
def test_an_image_that_was_cut_off_is_refused(data: bytes, part: float) -> None:
    assert is_refused(data[: int(len(data) * part)])


@pytest.mark.parametrize("end", [b"", b"\xff", b"\xff\xd9", bytes(1000) + b"\xff\xd9"], ids=repr)
@pytest.mark.parametrize("name", ["JPEG", "JPEG with restarts", "photo"])
def test_the_first_half_of_a_jpeg_is_refused_even_with_an_end_marker(name: str, end: bytes) -> None:
    data = WHOLE[name]

    assert is_refused(data[: len(data) // 2] + end)


@pytest.mark.parametrize("name", [name for name in WHOLE if name.endswith(("JPEG", "photo", "restarts", "row"))])
def test_the_end_marker_of_a_jpeg_may_be_missing(name: str) -> None:
    for missing in (1, 2):
        decode(WHOLE[name][:-missing])


@pytest.mark.parametrize("missing", range(1, 13))
def test_the_end_chunk_of_a_png_may_be_missing(missing: int) -> None:
    decode(WHOLE["PNG"][:-missing])


@pytest.mark.parametrize("missing", [17, 20, 100])
def test_no_pixel_of_a_png_may_be_missing(missing: int) -> None:
    assert is_refused(WHOLE["PNG"][:-missing])


BAD_CHECKSUM = chunk(b"tEXt", b"Comment\0hello")[:-1] + b"?"
METADATA = {
    "colour profile of 2 MB": picture(icc_profile=bytes(2 * 1024**2)),
    "text of 2 MB": with_chunks(picture(), chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2 * 1024**2)))),
    "bad checksum": with_chunks(picture(), BAD_CHECKSUM),
    "empty chunks": with_chunks(picture(), *(chunk(kind, b"") for kind in (b"gAMA", b"iCCP", b"tRNS", b"eXIf"))),
    "wrong animation": with_chunks(picture(), chunk(b"acTL", bytes(8)), chunk(b"fcTL", bytes(3))),
}  # fmt: skip


@pytest.mark.parametrize("data", METADATA.values(), ids=METADATA.keys())
def test_metadata_of_a_png_is_no_reason_to_refuse_it(data: bytes) -> None:
    decode(data)


def test_a_header_that_lies_about_the_size_is_refused() -> None:
    data = bytearray(WHOLE["PNG"])
    data[16:24] = (5000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")

    assert is_refused(bytes(data))


def test_a_webp_whose_canvas_is_larger_than_its_frame_is_refused() -> None:
    data = bytearray(file("WEBP", exif=b"Exif\0\0MM\0*"))
    data[24:30] = (4000).to_bytes(3, "little") * 2

    assert is_refused(bytes(data))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "MPO"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_orientation_says(form: str, orientation: int) -> None:
    data = photo(form, orientation, icc_profile=PROFILE)
    found = structure.read(data)
    assert pixels.orientation(found) == orientation
    if orientation == pixels.UPRIGHT:
        return

    turned = pixels.turned(data, found)

    upright = structure.read(turned)
    assert (upright.media_type, pixels.orientation(upright)) == (found.media_type, pixels.UPRIGHT)
    with Image.open(BytesIO(data)) as before, Image.open(BytesIO(turned)) as after:
        expected = ImageOps.exif_transpose(before).convert("RGB")
        assert after.size == expected.size
        assert after.info["icc_profile"] == PROFILE
        assert mean_difference(expected, after.convert("RGB")) < 2


@pytest.mark.parametrize(
    ("form", "mode"),
    [("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "1"), ("PNG", "P"), ("PNG", "LA"), ("PNG", "I;16"), ("WEBP", "RGB")],
)
def test_an_image_of_any_mode_is_turned(form: str, mode: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = file(form, mode, exif=exif)

    with Image.open(BytesIO(pixels.turned(data, structure.read(data)))) as image:
        assert (image.mode, image.size) == (mode, (90, 120))


def mean_difference(one: Image.Image, other: Image.Image) -> float:
    return max(ImageStat.Stat(ImageChops.difference(one, other)).mean)


def test_an_image_with_unreadable_metadata_is_turned_without_it() -> None:
    data = photo("PNG", 6, icc_profile=bytes(2 * 1024**2))

    turned = pixels.turned(data, structure.read(data))

    with Image.open(BytesIO(turned)) as image:
        assert (image.size, image.info) == ((384, 512), {})


@pytest.mark.parametrize(
    "exif",
    [b"", b"Exif\0\0", b"Exif\0\0II*\0", b"\0" * 100, b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"II*\0\xff\xff\xff\xff"],
    ids=["none", "nothing", "a header", "zeros", "no entries", "far away"],
)
def test_exif_data_that_cannot_be_read_has_no_orientation(exif: bytes) -> None:
    data = file("WEBP", exif=exif or b"?")

    assert pixels.orientation(structure.read(data)) == pixels.UPRIGHT


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_none(value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value

    assert pixels.orientation(structure.read(file("JPEG", exif=exif))) == pixels.UPRIGHT


FILES = [WHOLE[name] for name in ("JPEG", "progressive JPEG", "PNG", "palette PNG", "WebP", "lossless WebP")]


@pytest.mark.filterwarnings("ignore:.*:UserWarning:PIL")  # Pillow warns about repairable damage
@given(st.sampled_from(FILES), st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), max_size=8))
def test_a_damaged_image_is_decoded_or_refused_and_nothing_worse(whole: bytes, damage: list[tuple[int, int]]) -> None:
    raw = bytearray(whole)
    for place, value in damage:
        raw[place] = value
    try:
        found = structure.read(bytes(raw))
        if found.pixels < 1_000_000:
            pixels.decode(bytes(raw), found)
            pixels.orientation(found)
    except NotAnImage as refused:
        assert str(refused)  # noqa: PT017 - both ends are right
