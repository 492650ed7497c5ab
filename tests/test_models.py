"""Every model of the catalog, from the request to the stored image, against a twin that has its own facts of each."""

from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from app.catalog import Catalog, Model, open_catalog, shipped_catalog
from app.db.tables import tasks
from app.twin import Faults, Rules
from app.web.model_schemas import example
from tests.pictures import in_base64, picture
from tests.web.documents import nothing_recorded, problem
from tests.world import World, open_world

CATALOG = shipped_catalog()
# These run in `make test`, the others in `make check`: one for each kind of row.
_OFTEN = {"flux-2-pro", "flux-3-image", "flux-tools/erase-v1", "flux-tools/outpainting-v1", "flux-pro-1.1"}
PICTURES = [picture(256 + number) for number in range(10)]
DIGESTS = [sha256(data).hexdigest() for data in PICTURES]


def _row(*values: str) -> Any:
    return pytest.param(*values, marks=() if values[-1] in _OFTEN else pytest.mark.check)


def _kind(model_id: str) -> tuple[bool, bool, str]:
    model = CATALOG.model(model_id)
    return model.webhook, model.strict, model_id


each_model = pytest.mark.parametrize("model_id", [_row(model_id) for model_id in CATALOG.served])
# For what depends on the model, or on the provider, but not on both: each provider has models of each kind.
each_model_once = pytest.mark.parametrize(
    ("stage", "model_id"),
    [
        _row(("bfl", "gptproto")[number % 2], model_id)
        for number, model_id in enumerate(sorted(CATALOG.served, key=_kind))
    ],
    indirect=["stage"],
)


@pytest.fixture(params=["bfl", "gptproto"])
async def stage(request: pytest.FixtureRequest, tmp_path: Path, sqlite_url: str) -> AsyncGenerator[tuple[World, str]]:
    """A world with one of the providers, and the prefix of the paths that its clients use."""
    async with open_world(tmp_path, sqlite_url, provider=request.param, rules=Rules(megapixels=0.02)) as world:
        yield world, "/flux" if request.param == "gptproto" else ""


def minimal(model: Model) -> dict[str, Any]:
    """Return the smallest request for a model, with images that are at hand."""
    body = {name: value for name, value in example(model).items() if name not in model.images.members}
    return {**body, **with_images(model, sum(name in model.images.members for name in model.required))}


def with_images(model: Model, count: int) -> dict[str, Any]:
    """Return the members with the first images of a model."""
    texts = [in_base64(data) for data in PICTURES[:count]]
    if model.images.style == "list":
        return {model.images.members[0]: texts} if texts else {}
    return dict(zip(model.images.members, texts, strict=False))


async def finished(world: World) -> list[dict[str, Any]]:
    """Let everything happen, and return the tasks, which must all be stored, in the order in which they were posted."""
    await world.go_on(12)
    found: list[dict[str, Any]] = (await world.api.get("/v1/tasks")).json()["tasks"]
    assert {(task["status"], (task["failure"] or {}).get("detail")) for task in found} == {("stored", None)}
    return found[::-1]


@each_model
async def test_a_model_makes_an_image_of_each_kind_of_request(stage: tuple[World, str], model_id: str) -> None:
    world, mount = stage
    model = CATALOG.model(model_id)
    full = {**minimal(model), **with_images(model, model.images.max)}
    options = {"priority": 1, "webhook_url": "https://app.example.com/hook"}
    native = await world.api.post("/v1/tasks", json={"model": model_id, **minimal(model), **options})
    compatible = await world.api.post(f"{mount}/v1/{model_id}", json=full)
    fields = {name: str(value) for name, value in minimal(model).items() if name not in model.images.members}
    slots = [name.partition("[")[0] for name in model.images.slots[: model.images.max]]
    parts = [(name, ("a.png", data)) for name, data in zip(slots, PICTURES, strict=False)]
    form = await world.api.post("/v1/tasks", data={"model": model_id, **fields}, files=parts)

    assert [answer.status_code for answer in (native, compatible, form)] == [202, 200, 202], compatible.text
    await finished(world)
    made = {len(task["inputs"]): task["inputs"] for task in world.ledger()["tasks"]}
    assert made[model.images.max] == DIGESTS[: model.images.max]
    assert {task["model"] for task in world.ledger()["tasks"]} == {model_id}
    assert len(world.ledger()["tasks"]) == 3


@each_model_once
async def test_the_outcome_of_a_model_without_a_webhook_comes_from_polls(
    stage: tuple[World, str], model_id: str
) -> None:
    world, _ = stage
    model = CATALOG.model(model_id)
    task_id = await world.post(**{**minimal(model), "model": model_id})
    (task,) = await finished(world)
    evidence = await world.timeline(task_id, "evidence")

    witnesses = {entry["witness"] for entry in evidence}
    assert ("callback" in witnesses) is model.webhook
    assert ("poll" in witnesses) is not model.webhook
    assert not any(entry["repaired"] for entry in evidence)
    assert task["watched_by"] == ("callback" if model.webhook else "poll")


@each_model_once
async def test_an_extra_member_is_refused_exactly_if_the_model_refuses_it(
    stage: tuple[World, str], model_id: str
) -> None:
    world, mount = stage
    model = CATALOG.model(model_id)
    extra = {**minimal(model), "brand_new": 1}
    native = await world.api.post("/v1/tasks", json={"model": model_id, **extra})
    compatible = await world.api.post(f"{mount}/v1/{model_id}", json=extra)

    if model.strict:
        for answer in (native, compatible):
            assert list(problem(answer, 422)["fields"]) == ["brand_new"]
        assert await nothing_recorded(world)
        return
    for answer in (native, compatible):
        assert [warning.partition(":")[0] for warning in answer.json()["warnings"]] == ["brand_new"]
    for task in await finished(world):
        assert task["params"]["brand_new"] == 1


async def test_a_link_that_lives_for_an_hour_is_used_for_an_hour(world: World) -> None:
    task_id = await world.post(model="flux-3-image")
    await world.go_on(12)
    task = await world.use.db.read(tasks.get, task_id)

    assert task is not None
    assert task.ready_at is not None
    assert task.sample_expires_at is not None
    assert task.sample_expires_at > task.ready_at + timedelta(minutes=59)


async def test_a_task_can_still_be_sent_after_its_model_has_left_the_catalog(tmp_path: Path, sqlite_url: str) -> None:
    async with open_world(tmp_path, sqlite_url, rules=Rules(megapixels=0.02)) as world:
        body = {
            "model": "flux-3-image",
            **minimal(CATALOG.model("flux-3-image")),
            **with_images(CATALOG.model("flux-3-image"), 2),
        }
        task_id = await world.post(**body)
        world.use = replace(world.use, catalog=Catalog([CATALOG.model("flux-2-pro")]))
        await world.go_on(12)

        assert (await world.task(task_id))["status"] == "stored"
        (accepted,) = world.ledger()["tasks"]
        assert (accepted["webhook_url"], accepted["inputs"]) == (None, DIGESTS[:2])


async def test_a_row_of_the_operator_is_served_like_any_other(tmp_path: Path, sqlite_url: str) -> None:
    file = tmp_path / "models.toml"
    file.write_text(
        '[[models]]\nid = "flux-9"\npath = "/v1/flux-2-pro"\n'
        '[models.images]\nstyle = "numbered"\nmembers = ["input_image"]\n'
        '[models.request]\nrequired = ["prompt"]\n[models.request.properties]\n'
        'prompt = {type = "string"}\ninput_image = {type = "string"}\nwidth = {type = "integer", maximum = 512}\n'
    )
    async with open_world(tmp_path, sqlite_url, rules=Rules(megapixels=0.02), catalog=open_catalog(file)) as world:
        native = await world.api.post("/v1/tasks", json={"model": "flux-9", "prompt": "x", "width": 256})
        compatible = await world.api.post("/v1/flux-9", json={"prompt": "x", "input_image": in_base64(PICTURES[0])})
        too_wide = await world.api.post("/v1/flux-9", json={"prompt": "x", "width": 1024})

        assert (native.status_code, compatible.status_code) == (202, 200)
        assert problem(too_wide, 422)["fields"] == {"width": "must be at most 512"}
        assert {task["model"] for task in await finished(world)} == {"flux-9"}
        assert {task["model"] for task in world.ledger()["tasks"]} == {"flux-2-pro"}
        assert "/flux/v1/flux-9" in (await world.outsider.get("/openapi.json")).json()["paths"]


async def test_a_model_without_a_row_is_passed_on_if_the_operator_wants_it(tmp_path: Path, sqlite_url: str) -> None:
    passing = open_catalog(pass_unknown=True)
    rules = Rules(megapixels=0.02, slots={"flux-9": 24})
    async with open_world(tmp_path, sqlite_url, rules=rules, catalog=passing) as world:
        body = {"prompt": "x", "aspect_ratio": "1:1", "input_image": in_base64(PICTURES[0]), "brand_new": 1}
        posted = await world.api.post("/v1/flux-9", json=body)
        native = await world.api.post("/v1/tasks", json={"model": "flux-9", "prompt": "x"})
        video = await world.api.post("/v1/flux-3-video", json={"prompt": "x"})
        own = await world.api.post("/v1/usage", json={"prompt": "x"})

        assert posted.status_code == 200, posted.text
        assert [warning.partition(":")[0] for warning in posted.json()["warnings"]] == ["model", "brand_new"]
        assert list(problem(native, 422)["fields"]) == ["model"]
        assert "images only" in problem(video, 404)["detail"]
        assert own.status_code == 405
        await finished(world)
        assert [task["inputs"] for task in world.ledger()["tasks"]] == [DIGESTS[:1]]


async def test_a_polled_model_keeps_its_lost_answer_no_longer_than_the_answer_may_take(world: World) -> None:
    world.twin.faults = Faults(lose_answer_after=1)
    task_id = await world.post(model="flux-3-image")
    await world.go_on(70, 5)

    failure = (await world.task(task_id))["failure"]
    assert (failure["code"], failure["money_spent"]) == ("unknown_outcome", "maybe")
