from __future__ import annotations

import base64
from io import BytesIO
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from PIL import Image, ImageStat

from app.twin.pictures import output_size

if TYPE_CHECKING:
    from tests.twin.conftest import Scene


async def picture(scene: Scene, prompt: str = "a lake", **fields: Any) -> Image.Image:
    answer = await scene.client.get(await scene.sample(prompt, **fields))
    return Image.open(BytesIO(answer.content))


def picture_of(colour: str, form: str, **options: Any) -> bytes:
    out = BytesIO()
    Image.new("RGB", (320, 320), colour).save(out, form, **options)
    return out.getvalue()


def colours(image: Image.Image) -> list[tuple[int, ...]]:
    """Return the mean colours of the left and the right quarter, above the caption."""
    width, height = image.size
    boxes = ((0, 0, width // 4, height // 2), (3 * width // 4, 0, width, height // 2))
    return [tuple(round(mean) for mean in ImageStat.Stat(image.convert("RGB").crop(box)).mean) for box in boxes]


def test_output_is_one_megapixel_in_any_ratio() -> None:
    assert output_size(1, 1) == (1024, 1024)
    width, height = output_size(21 / 9, 1)
    assert abs(width * height / 1024**2 - 1) < 0.02


@pytest.mark.parametrize("form", ["jpeg", "png", "webp"])
async def test_an_image_has_the_requested_format(scene: Scene, form: str) -> None:
    answer = await scene.client.get(await scene.sample(output_format=form))

    assert answer.headers["content-type"] == f"image/{form}"
    assert Image.open(BytesIO(answer.content)).format == form.upper()


async def test_seed_and_prompt_determine_the_image(scene: Scene) -> None:
    async def data(prompt: str, seed: int) -> bytes:
        return (await scene.client.get(await scene.sample(prompt, seed=seed))).content

    assert await data("a lake", 1) == await data("a lake", 1)
    assert await data("a lake", 1) != await data("a lake", 2)
    assert await data("a lake", 1) != await data("a hill", 1)


@pytest.mark.parametrize(
    "data",
    [picture_of("red", "PNG", icc_profile=bytes(2 * 1024**2)), picture_of("red", "JPEG")[:-2]],
    ids=["PNG with a large colour profile", "JPEG without an end"],
)
async def test_an_input_with_all_its_pixels_is_edited(scene: Scene, data: bytes) -> None:
    edited = await picture(scene, "mirror", input_image=base64.b64encode(data).decode())

    red, green, blue = colours(edited)[0]
    assert red - max(green, blue) > 150


async def test_an_edit_keeps_the_ratio_of_its_input(scene: Scene, photo: str) -> None:
    width, height = (await picture(scene, "blur", input_image=photo)).size

    assert width == pytest.approx(2 * height, rel=0.1)


async def test_a_requested_ratio_takes_precedence_over_the_input(scene: Scene, photo: str) -> None:
    width, height = (await picture(scene, "blur", input_image=photo, aspect_ratio="9:21")).size

    assert width < height


async def test_black_and_white_has_no_colour(scene: Scene, photo: str) -> None:
    left, right = colours(await picture(scene, "make it Black and White", input_image=photo))

    assert len(set(left)) == len(set(right)) == 1


async def test_invert_and_mirror_change_the_image(scene: Scene, photo: str) -> None:
    (left, _), (mirrored, _) = [
        colours(await picture(scene, prompt, input_image=photo)) for prompt in ("invert", "mirror")
    ]

    assert left[0] < 100 < left[2]  # red became cyan
    assert mirrored[2] > mirrored[0]  # blue is on the left


async def test_a_prompt_without_an_effect_is_written_on_the_image(scene: Scene, photo: str) -> None:
    captioned = await picture(scene, "two colours", input_image=photo, seed=1)
    bottom = captioned.convert("L").crop((0, captioned.height - 3, captioned.width, captioned.height))

    assert ImageStat.Stat(bottom).mean[0] < 40


async def test_an_input_may_be_a_url(scene: Scene, photo: str) -> None:
    scene.receiver.file = base64.b64decode(photo)
    width, height = (await picture(scene, "blur", input_image="http://receiver.test/photo.png")).size

    assert width == pytest.approx(2 * height, rel=0.1)


@pytest.mark.parametrize("status", [200, 404])
async def test_a_url_without_an_image_is_refused(scene: Scene, status: int) -> None:
    scene.receiver.answers = [status]
    answer = await scene.submit("blur", input_image="http://receiver.test/photo.png")

    assert answer.status_code == 422


async def test_a_link_expires_at_the_time_that_it_states(scene: Scene) -> None:
    link = await scene.sample()
    (ends,) = parse_qs(urlsplit(link).query)["se"]
    scene.clock.advance(599)
    in_time = await scene.client.get(link)
    scene.clock.advance(1)
    too_late = await scene.client.get(link)

    assert ends == "2026-01-02T12:10:02Z"
    assert in_time.status_code == 200
    assert too_late.status_code == 403
    assert "AuthenticationFailed" in too_late.text


async def test_a_link_cannot_be_extended(scene: Scene) -> None:
    link = httpx.URL(await scene.sample())

    assert (await scene.client.get(link.copy_set_param("se", "2099-01-01T00:00:00Z"))).status_code == 403
    assert (await scene.client.get(link.path)).status_code == 403


async def test_the_ledger_records_the_digest_of_a_downloaded_image(scene: Scene) -> None:
    link = await scene.sample()
    before = (await scene.ledger())["tasks"][0]
    await scene.client.get(link)
    after = (await scene.ledger())["tasks"][0]

    assert (before["sha256"], before["downloads"]) == (None, 0)
    assert len(after["sha256"]) == 64
    assert after["downloads"] == 1
