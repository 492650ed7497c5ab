"""The README's story over real sockets: a photo goes out, a proven callback comes in, the image is ours."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from app.twin.rules import Profile
from tests.pictures import in_base64, photo
from tests.services import services_running
from tests.world import ADMIN_KEY

# What a final callback proves in each profile, and whether the provider had to be asked.
VERDICTS = {"a": "signed", "b": "shared_secret", "c": "shared_secret", "none": "unproven"}


@dataclass
class Stage:
    """The service and the twin, each behind an address of its own."""

    api: httpx.AsyncClient
    twin: httpx.AsyncClient

    async def run(self, **params: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Post a task, wait for its end, and return it with its timeline."""
        posted = await self.api.post("/v1/tasks", json=params)
        assert posted.status_code == 202, posted.text
        task = (await self.api.get(posted.headers["location"], headers={"prefer": "wait=60"})).json()
        timeline = await self.api.get(f"{posted.headers['location']}/timeline")
        return task, timeline.json()["entries"]

    async def ledger(self) -> dict[str, dict[str, Any]]:
        """The provider's tasks by id."""
        return {task["id"]: task for task in (await self.twin.get("/twin/ledger")).json()["tasks"]}


@pytest.fixture(params=["bfl", pytest.param("gptproto", marks=pytest.mark.check)])
async def stage(
    request: pytest.FixtureRequest, profile: Profile, tmp_path: Path, sqlite_url: str
) -> AsyncGenerator[Stage]:
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    async with AsyncExitStack() as stack:
        our_address, their_address = await stack.enter_async_context(
            services_running(tmp_path, sqlite_url, provider=request.param, profile=profile)
        )
        twin = await stack.enter_async_context(httpx.AsyncClient(base_url=their_address, timeout=60))
        api = await stack.enter_async_context(httpx.AsyncClient(base_url=our_address, headers=headers, timeout=120))
        (await twin.put("/twin/rules", json={"megapixels": 0.1})).raise_for_status()
        yield Stage(api, twin)


@pytest.mark.parametrize(
    "profile", ["b", *(pytest.param(profile, marks=pytest.mark.check) for profile in ("a", "c", "none"))]
)
async def test_a_generated_image_is_stored_and_every_charge_is_accounted_for(stage: Stage, profile: Profile) -> None:
    photos = {name: in_base64(photo(name.upper())) for name in ("jpeg", "png")}
    orders: list[dict[str, Any]] = [
        {"prompt": "a lighthouse at dusk", "aspect_ratio": "16:9"},
        *({"prompt": "black and white", "input_image": image, "output_format": name} for name, image in photos.items()),
    ]
    stories = await asyncio.gather(*(stage.run(**order) for order in orders))
    ledger = await stage.ledger()

    assert len(ledger) == len(orders)
    for order, (task, timeline) in zip(orders, stories, strict=True):
        assert task["status"] == "stored", task
        (attempt,) = [entry for entry in timeline if entry["event"] == "submission"]
        theirs = ledger[attempt["provider_id"]]
        served = await stage.api.get(task["image"]["url"])
        assert task["image"]["sha256"] == theirs["sha256"]
        assert (task["cost"], len(served.content)) == (theirs["cost"], task["image"]["bytes"])
        assert served.headers["content-type"] == task["image"]["media_type"]
        assert bool(theirs["inputs"]) == ("input_image" in order)
        _check_evidence(timeline, profile)
        _check_picture(served.content, grey="input_image" in order)


def _check_evidence(timeline: list[dict[str, Any]], profile: Profile) -> None:
    callbacks = [entry for entry in timeline if entry.get("witness") == "callback"]
    polls = [entry for entry in timeline if entry.get("witness") == "poll"]

    assert {entry["verdict"] for entry in callbacks} == {VERDICTS[profile]}
    # Profile C says "processing" first.
    assert len(callbacks) == (2 if profile == "c" else 1)
    assert [entry["effect"] for entry in (polls if profile == "none" else callbacks[-1:])] == ["moved"]
    assert bool(polls) == (profile == "none")


def _check_picture(data: bytes, *, grey: bool) -> None:
    with Image.open(BytesIO(data)) as picture:
        red, green, blue = picture.convert("RGB").resize((32, 32)).split()
    close = all(abs(a - b) < 8 for one in (green, blue) for a, b in zip(red.tobytes(), one.tobytes(), strict=True))

    assert close == grey
