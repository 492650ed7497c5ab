"""The models of the catalog in the API."""

from dataclasses import replace
from pathlib import Path

from app.catalog import Catalog, shipped_catalog
from tests.pictures import in_base64, padded
from tests.web.documents import problem
from tests.world import World, open_world


async def test_every_model_of_the_catalog_is_listed_with_its_schema(world: World) -> None:
    listed = (await world.api.get("/v1/models")).json()["models"]
    by_id = {model["id"]: model for model in listed}

    assert list(by_id) == [model.id for model in shipped_catalog()]
    assert {model["id"] for model in listed if model["served"]} == set(shipped_catalog().served)
    assert by_id["flux-3-video"]["served"] is False
    assert (by_id["flux-3-image"]["watched_by"], by_id["flux-2-pro"]["watched_by"]) == ("poll", "callback")
    assert by_id["flux-2-pro"]["request"]["properties"]["width"]["minimum"] == 64
    assert by_id["flux-3-image"]["images"]["max"] == 10


async def test_one_model_can_be_read_also_if_its_id_has_a_slash(world: World) -> None:
    for model_id in ("flux-2-pro", "flux-tools/erase-v1"):
        assert (await world.api.get(f"/v1/models/{model_id}")).json()["id"] == model_id
    problem(await world.api.get("/v1/models/flux-9"), 404, "not_found")


async def test_the_models_need_an_api_key(world: World) -> None:
    problem(await world.outsider.get("/v1/models"), 401, "unauthorized")


async def test_without_a_public_url_every_model_is_polled(tmp_path: Path, sqlite_url: str) -> None:
    async with open_world(tmp_path, sqlite_url, public_url=None) as world:
        listed = (await world.api.get("/v1/models")).json()["models"]

    assert {model["watched_by"] for model in listed} == {"poll"}


async def test_the_limits_of_an_image_are_those_of_its_model(tmp_path: Path, sqlite_url: str) -> None:
    row = shipped_catalog().model("flux-2-pro")
    small = replace(row, images=replace(row.images, max_bytes=1000))
    async with open_world(tmp_path, sqlite_url, catalog=Catalog([small])) as world:
        body = {"model": "flux-2-pro", "prompt": "x", "input_image": in_base64(padded(2000))}
        answer = await world.api.post("/v1/tasks", json=body)

    assert problem(answer, 413, "too_large")["fields"]["input_image"].startswith("more than")


async def test_tasks_can_be_filtered_by_a_model_with_a_slash(world: World) -> None:
    answer = await world.api.get("/v1/tasks", params={"model": "flux-tools/erase-v1"})

    assert answer.json()["tasks"] == []
