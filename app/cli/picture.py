"""A default input image for the demo."""

from pathlib import Path

from PIL import Image, ImageDraw

_WIDTH, _HEIGHT = 1024, 768
_SKY, _DUSK = (38, 70, 120), (244, 162, 97)
_HILLS = (((20, 83, 90), 430, 150), ((16, 62, 72), 520, 110), ((12, 42, 52), 620, 70))


def draw_landscape(path: Path) -> Path:
    """Draw hills under an evening sky, write them to `path` as PNG, and return `path`."""
    image = Image.new("RGB", (_WIDTH, _HEIGHT))
    pen = ImageDraw.Draw(image)
    for y in range(_HEIGHT):
        share = y / _HEIGHT
        shade = tuple(round(a + (b - a) * share) for a, b in zip(_SKY, _DUSK, strict=True))
        pen.line([(0, y), (_WIDTH, y)], fill=shade)
    pen.ellipse((640, 250, 800, 410), fill=(255, 223, 160))
    for fill, base, swing in _HILLS:
        # A row of parabolas looks enough like hills.
        ridge = [(x, base - swing * (1 - ((x + base) % 400 / 200 - 1) ** 2)) for x in range(0, _WIDTH + 1, 8)]
        pen.polygon([*ridge, (_WIDTH, _HEIGHT), (0, _HEIGHT)], fill=fill)
    image.save(path)
    return path
