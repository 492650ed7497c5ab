"""The form of a new task: its fields for each model, and what it submits."""

import re

import pytest

from app.catalog import shipped_catalog
from tests.browsing import HTML, Page, look, signed_in
from tests.pictures import picture
from tests.world import World

Files = list[tuple[str, tuple[str, bytes, str]]]


def fields_of(page: Page, **values: str) -> dict[str, str]:
    """What a browser sends for the form: its hidden fields, and an empty text for each of the others."""
    form = page.text.partition('method="post" action="/new"')[2]
    hidden = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', form))
    return {**dict.fromkeys(re.findall(r'id="f-\w+" name="(\w+)"', form), ""), **hidden, **values}


async def send(world: World, fields: dict[str, str], images: Files | None = None) -> tuple[int, str, str]:
    """Send the form as multipart; return the status, the page that it leads to, and the text."""
    empty: Files = [("input_image", ("", b"", "application/octet-stream"))]
    texts = {name: value for name, value in fields.items() if "image" not in name}
    answer = await world.outsider.post("/new", data=texts, files=images or empty)
    return answer.status_code, answer.headers.get("location", ""), answer.text


async def test_the_form_submits_a_task_with_an_image(each_world: World) -> None:
    world = each_world
    page = await signed_in(world, "/new")
    image = ("input_image", ("a.png", picture(), "image/png"))

    status, location, _ = await send(world, fields_of(page, prompt=HTML, output_format="webp"), [image])
    task = await world.task(location.split("/")[2].partition("?")[0])

    assert status == 303
    assert location.endswith("?done=new")
    assert task["params"]["prompt"] == HTML
    assert task["params"]["output_format"] == "webp"
    assert [image["field"] for image in task["params"]["images"]] == ["input_image"]


async def test_a_form_that_is_sent_twice_makes_one_task(world: World) -> None:
    fields = fields_of(await signed_in(world, "/new"), prompt="once")

    first, second = await send(world, fields), await send(world, fields)

    assert first[:2] == second[:2]
    assert len((await world.api.get("/v1/tasks")).json()["tasks"]) == 1


async def test_a_form_with_a_wrong_value_comes_back_with_the_reason_and_the_values(world: World) -> None:
    fields = fields_of(await signed_in(world, "/new"), prompt="a fox", safety_tolerance="9")

    status, _, text = await send(world, fields)

    assert status == 422
    assert "Safety tolerance must be at most 6." in text
    assert 'aria-invalid="true"' in text
    assert re.search(r"<textarea[^>]*>a fox</textarea>", text)
    assert (await world.api.get("/v1/tasks")).json()["tasks"] == []


@pytest.mark.parametrize("token", ["", "AAAA"])
async def test_a_form_without_the_sessions_token_submits_nothing(world: World, token: str) -> None:
    fields = fields_of(await signed_in(world, "/new"), prompt="a fox", token=token)

    assert (await send(world, fields))[0] == 403
    assert (await world.api.get("/v1/tasks")).json()["tasks"] == []


async def test_every_image_model_has_a_form_with_its_members(world: World) -> None:
    await signed_in(world, "/new")

    for model in shipped_catalog():
        if model.kind != "image":
            continue
        page = await look(world, f"/new?model={model.id}")
        shown = set(re.findall(r'id="f-\w+" name="(\w+)"', page.text))
        assert shown == set(model.properties), model.id
