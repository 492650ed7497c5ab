from pathlib import Path

from PIL import Image

from app.cli.picture import draw_landscape


def test_a_landscape_is_drawn_with_a_sky_above_its_hills(tmp_path: Path) -> None:
    with Image.open(draw_landscape(tmp_path / "hills.png")) as picture:
        pixels = picture.convert("RGB")
        sky, hill = pixels.getpixel((10, 10)), pixels.getpixel((10, 760))

    assert (picture.format, picture.size) == ("PNG", (1024, 768))
    assert isinstance(sky, tuple)
    assert isinstance(hill, tuple)
    assert sum(sky) > sum(hill)
