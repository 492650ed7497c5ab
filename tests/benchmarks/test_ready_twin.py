"""Images made in advance, with different bytes."""

from io import BytesIO

from PIL import Image

from benchmarks.ready_twin import commented, named, noise, photo


def test_a_named_image_has_equal_pixels_and_different_bytes() -> None:
    plain = noise(32)
    one, other = named(plain, "one"), named(plain, "other")
    assert one != other
    with Image.open(BytesIO(plain)) as expected, Image.open(BytesIO(one)) as found:
        assert found.tobytes() == expected.tobytes()


def test_noise_does_not_compress() -> None:
    assert len(noise(64)) > 64 * 64 * 3 * 0.8


def test_a_commented_jpeg_has_equal_pixels_and_different_bytes() -> None:
    plain = photo(0.01)
    one, other = commented(plain, "one"), commented(plain, "other")
    assert one != other
    with Image.open(BytesIO(plain)) as expected, Image.open(BytesIO(one)) as found:
        assert (found.format, found.size) == ("JPEG", (100, 100))
        assert found.tobytes() == expected.tobytes()
