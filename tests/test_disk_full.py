"""A disk on which only the reserve is left: no new tasks, and those in progress go on."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from app.store import DiskReserve
from tests.calling import small
from tests.pictures import in_base64, padded
from tests.web.documents import problem
from tests.world import World, open_world


class Disk:
    """The reserve of a world, which a test fills by raising it above what any disk has."""

    def __init__(self, folder: Path) -> None:
        self.reserve = DiskReserve({"DATA_DIR": folder}, 0)

    def fill(self) -> None:
        self._set(2**62)

    def free(self) -> None:
        self._set(0)

    def _set(self, reserve: int) -> None:
        self.reserve.reserve, self.reserve._known_until = reserve, 0.0


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


@pytest.fixture
async def full_world(tmp_path: Path, sqlite_url: str, disk: Disk) -> AsyncGenerator[World]:
    async with open_world(tmp_path, sqlite_url, disk=disk.reserve) as world:
        small(world)
        yield world


@pytest.mark.parametrize("path", ["/v1/tasks", "/v1/flux-kontext-pro"])
@pytest.mark.parametrize("image", [None, in_base64(padded(200_000))], ids=["small", "large"])
async def test_a_post_is_refused_with_its_reason(full_world: World, disk: Disk, path: str, image: str | None) -> None:
    disk.fill()
    answer = await full_world.api.post(path, json={"prompt": "a fox", "input_image": image})

    assert "disk is nearly full" in problem(answer, 503, "disk_full")["detail"]
    assert int(answer.headers["retry-after"]) > 0


async def test_a_task_at_the_provider_is_received_and_stored(full_world: World, disk: Disk) -> None:
    task_id = await full_world.post()
    await full_world.work()
    disk.fill()
    await full_world.go_on(6)

    assert (await full_world.task(task_id))["status"] == "stored"


async def test_a_queued_task_is_submitted_once_there_is_room(full_world: World, disk: Disk) -> None:
    task_id = await full_world.post()
    disk.fill()
    await full_world.go_on(600, 60)
    waiting = await full_world.task(task_id)
    paid = full_world.ledger()["charged"]
    disk.free()
    await full_world.go_on(600, 20)

    assert (waiting["status"], paid) == ("queued", 0)
    assert (await full_world.task(task_id))["status"] == "stored"


async def test_a_failed_task_is_not_resubmitted(full_world: World, disk: Disk) -> None:
    task_id = await full_world.post()
    disk.fill()

    problem(await full_world.api.post(f"/v1/tasks/{task_id}/resubmit"), 503, "disk_full")


async def test_readiness_names_the_disk_and_the_service_stays_ready(full_world: World, disk: Disk) -> None:
    before = (await full_world.api.get("/readyz")).json()
    disk.fill()
    after = await full_world.api.get("/readyz")

    assert (before["notes"], after.status_code) == ([], 200)
    assert [note.partition(":")[0] for note in after.json()["notes"]] == ["no tasks are accepted or submitted"]
