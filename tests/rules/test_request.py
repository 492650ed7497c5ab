from typing import Any

from app.rules.json_value import JsonObject
from app.rules.request import StoredImage, TaskRequest

PARAMETERS: JsonObject = {"prompt": "make it sepia", "seed": 7, "aspect_ratio": None, "prompt_upsampling": False}
IMAGE: dict[str, Any] = {
    "field": "input_image",
    "store_key": "inputs/ab/abc.img_1.png",
    "sha256": "abc",
    "bytes": 9,
    "media_type": "image/png",
    "width": 3,
    "height": 2,
}
STORED = {**PARAMETERS, "images": [IMAGE, {**IMAGE, "field": "input_image_2"}]}


def test_a_stored_request_is_read_and_written_in_the_same_form() -> None:
    request = TaskRequest.of_json(STORED)

    assert request == TaskRequest(
        PARAMETERS,
        (
            StoredImage("input_image", "inputs/ab/abc.img_1.png", "abc", 9, "image/png", 3, 2),
            StoredImage("input_image_2", "inputs/ab/abc.img_1.png", "abc", 9, "image/png", 3, 2),
        ),
    )
    assert request.as_json() == STORED


def test_a_request_without_images_is_stored_with_an_empty_list() -> None:
    assert TaskRequest(PARAMETERS).as_json() == {**PARAMETERS, "images": []}
    assert TaskRequest.of_json(PARAMETERS) == TaskRequest(PARAMETERS)


def test_a_member_of_a_stored_image_that_a_later_version_adds_is_ignored() -> None:
    later = {**STORED, "images": [{**IMAGE, "orientation": 6}]}

    assert TaskRequest.of_json(later) == TaskRequest.of_json({**STORED, "images": [IMAGE]})


def test_a_request_knows_its_prompt_and_its_seed() -> None:
    assert (TaskRequest(PARAMETERS).prompt, TaskRequest(PARAMETERS).seed) == ("make it sepia", 7)
    assert TaskRequest({"prompt": "a red fox"}).seed is None


def test_the_repr_of_a_request_does_not_show_the_prompt() -> None:
    assert "sepia" not in repr(TaskRequest.of_json(STORED))
