"""Paints an image without an input: sky, sun and hills, with colours and positions drawn from prompt and seed."""

import colorsys
import math

from PIL import Image, ImageDraw, ImageOps

from app.twin.faults import fraction

Size = tuple[int, int]
Colour = tuple[int, int, int]

HILLS = 4
POINTS = 24  # vertices of a ridge; enough to look smooth at one megapixel


def paint(prompt: str, seed: int, size: Size) -> Image.Image:
    width, height = size
    hue = fraction(prompt, seed, "hue")
    image = _sky(hue, size)
    draw = ImageDraw.Draw(image)
    _sun(draw, hue, (prompt, seed), size)
    for n in range(HILLS):
        ridge = _ridge((prompt, seed, n), height * (0.5 + 0.12 * n), size)
        draw.polygon([*ridge, (width, height), (0, height)], fill=_colour(hue + 0.45, 0.5, 0.62 - 0.13 * n))
    return image


def _sky(hue: float, size: Size) -> Image.Image:
    ramp = Image.linear_gradient("L").resize(size)
    return ImageOps.colorize(ramp, _colour(hue, 0.65, 0.55), _colour(hue + 0.12, 0.35, 1.0))


def _sun(draw: ImageDraw.ImageDraw, hue: float, key: tuple[str, int], size: Size) -> None:
    width, height = size
    x = width * (0.15 + 0.7 * fraction(*key, "x"))
    y = height * (0.12 + 0.25 * fraction(*key, "y"))
    radius = min(size) * (0.06 + 0.08 * fraction(*key, "r"))
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_colour(hue + 0.1, 0.12, 1.0))


def _ridge(key: tuple[str, int, int], level: float, size: Size) -> list[tuple[float, float]]:
    """Return the points of a hill's outline from left to right, in pixels."""
    width, height = size
    phase, waves = math.tau * fraction(*key, "phase"), 1 + 2 * fraction(*key, "waves")
    return [
        (width * n / POINTS, level + 0.06 * height * math.sin(phase + math.tau * waves * n / POINTS))
        for n in range(POINTS + 1)
    ]


def _colour(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue % 1, saturation, value))
    return red, green, blue
