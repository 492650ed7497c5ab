"""The list of tasks: what it shows, how it is filtered and paged, and how large it is."""

import re
from datetime import timedelta
from pathlib import Path

from app.images import thumbnail
from tests.applications import application
from tests.browsing import HTML, look, signed_in
from tests.pictures import picture
from tests.world import World


def prompts(text: str) -> list[str]:
    return re.findall(r'class="prompt" dir="auto">([^<]*)<', text)


async def test_a_page_without_tasks_says_how_to_make_one(world: World) -> None:
    assert "No task yet" in (await signed_in(world)).text
    assert "No task matches" in (await look(world, "/tasks?state=failed")).text


async def test_the_page_shows_the_latest_tasks_with_image_state_and_failure(each_world: World) -> None:
    stored = await each_world.post()
    each_world.clock.advance(0.001)
    failed = await each_world.post(prompt="unsafe result")
    await each_world.go_on(6)
    await each_world.post(prompt="still waiting")

    page = (await signed_in(each_world)).text
    table = (await look(each_world, "/tasks?view=table")).text

    assert prompts(page) == ["still waiting", "unsafe result", "a red fox"]
    for text in (page, table):
        assert f'<img src="/tasks/{stored}/thumbnail"' in text
        assert f'<img src="/tasks/{failed}/thumbnail"' not in text
        assert f'href="/tasks/{failed}"' in text
    assert "Content Moderated" in page
    assert "content_moderated" in table


async def test_a_prompt_of_html_is_shown_as_text(world: World) -> None:
    await world.post(prompt=HTML)

    page = (await signed_in(world)).text

    assert "alert(1)</script>" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "{{ 7*7 }}" in page


async def test_tasks_are_filtered_by_state_model_and_time_and_keep_the_filter_on_the_next_page(world: World) -> None:
    for number in range(26):
        await world.post(prompt=f"fox {number}")
        world.clock.advance(60)
    await world.post(prompt="a pro", model="flux-2-pro")
    await signed_in(world)

    first = await look(world, "/tasks?state=open&model=flux-kontext-pro&view=gallery&until=")
    older = re.search(r'href="(/tasks[?][^"]+)" rel="next"', first.text)
    assert older is not None
    second = await look(world, older[1].replace("&amp;", "&"))
    recent = await look(world, f"/tasks?since={world.clock.at - timedelta(minutes=2):%Y-%m-%dT%H:%M}")

    assert prompts(first.text) == [f"fox {number}" for number in range(25, 1, -1)]
    assert prompts(second.text) == ["fox 1", "fox 0"]
    assert "state=open" in older[1]
    assert "data-live" in first.text
    assert "data-live" not in second.text
    assert prompts(recent.text) == ["a pro", "fox 25", "fox 24"]


async def test_an_admin_selects_the_tasks_of_one_application_and_no_other_key_does(each_world: World) -> None:
    world = each_world
    shop, other = [await application(world, name) for name in ("shop", "other")]
    for owner, prompt in ((shop, "of shop"), (other, "of other")):
        await world.outsider.post("/v1/tasks", json={"prompt": prompt}, headers=owner)
    page = await signed_in(world, "/tasks")
    selected = await look(world, "/tasks?application=app_shop")
    unknown = await look(world, "/tasks?application=app_nothing")
    page_of_shop = await look(world, "/applications/app_shop")
    own = await signed_in(world, "/tasks?application=app_shop", key="the key of other, for tests only")

    assert sorted(prompts(page.text)) == ["of other", "of shop"]
    assert prompts(selected.text) == ["of shop"]
    assert '<option value="app_shop" selected>shop</option>' in selected.text
    assert 'data-live="/tasks/live?application=app_shop"' in selected.text
    assert "No task matches" in unknown.text
    assert 'href="/tasks?application=app_shop"' in page_of_shop.text
    assert prompts((await look(world, "/tasks?application=app_shop")).text) == prompts(own.text) == ["of other"]
    assert "app_shop</option>" not in own.text
    assert 'name="application"' not in own.text


async def test_a_page_of_tasks_is_small_with_and_without_images(world: World) -> None:
    for number in range(24):
        await world.post(prompt=f"{number} " + "long " * 400)
    await world.go_on(8)

    page = await signed_in(world)
    images = [await world.outsider.get(path) for path in re.findall(r'src="(/tasks/[^"]+)"', page.text)]

    assert len(images) == 24
    assert len(page.text.encode()) < 100_000
    assert sum(len(image.content) for image in images) + len(page.text.encode()) < 400_000


async def test_a_thumbnail_is_stored_with_its_image_and_erased_with_it(each_world: World, tmp_path: Path) -> None:
    world = each_world
    task_id = await world.post()
    await world.go_on(6)
    await signed_in(world)

    shown = await world.outsider.get(f"/tasks/{task_id}/thumbnail")
    stored = [path.read_bytes() for path in (tmp_path / "images/thumbnails").rglob("*.webp")]
    await world.api.delete(f"/v1/tasks/{task_id}")
    await world.work()

    assert shown.headers["content-type"] == "image/webp"
    assert stored == [shown.content]
    assert [path for path in (tmp_path / "images").rglob("*") if path.is_file()] == []
    assert (await world.outsider.get(f"/tasks/{task_id}/thumbnail")).status_code == 404


async def test_an_image_without_a_stored_thumbnail_still_has_one(world: World, tmp_path: Path) -> None:
    task_id = await world.post()
    await world.go_on(6)
    for path in (tmp_path / "images/thumbnails").rglob("*.webp"):
        path.unlink()
    await signed_in(world)

    answer = await world.outsider.get(f"/tasks/{task_id}/thumbnail")

    assert answer.status_code == 200
    assert 0 < len(answer.content) <= thumbnail.MAX_BYTES


async def test_a_store_that_takes_no_thumbnail_costs_no_image(world: World, tmp_path: Path) -> None:
    task_id = await world.post()
    (tmp_path / "images/thumbnails").write_text("no folder, so no thumbnail can be stored in it")

    await world.go_on(6)

    assert (await world.task(task_id))["status"] == "stored"


async def test_an_input_image_is_shown_as_it_was_sent(world: World) -> None:
    sent = picture()
    answer = await world.api.post("/v1/tasks", data={"prompt": "x"}, files={"input_image": ("a.png", sent)})
    task_id = answer.json()["id"]
    await signed_in(world)

    whole = await world.outsider.get(f"/tasks/{task_id}/inputs/0")
    small = await world.outsider.get(f"/tasks/{task_id}/inputs/0/thumbnail")

    assert whole.content == sent
    assert whole.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert small.headers["content-type"] == "image/webp"
    assert (await world.outsider.get(f"/tasks/{task_id}/inputs/1")).status_code == 404
