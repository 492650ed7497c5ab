"""`doctor` says what is kept for how long, how much it takes, and when the disk will be full."""

import base64
from collections.abc import Mapping
from pathlib import Path

from app.cli.doctor import storage
from app.rules.growth import Stored
from app.settings import Settings
from app.web.findings import Finding
from tests.calling import small
from tests.pictures import picture
from tests.world import World


async def read(world: World, data_dir: Path, env: Mapping[str, str] | None = None) -> dict[str, Finding]:
    settings = Settings.from_env({"FLUXHOOK_DATA_DIR": str(data_dir), **(env or {})})
    return {finding.name: finding for finding in await storage.read(settings, world.use.db, world.clock.at)}


async def test_an_installation_without_tasks_is_described(each_world: World, tmp_path: Path) -> None:
    found = await read(each_world, tmp_path)

    assert "images without limit" in found["retention"].text
    assert "evidence and deliveries for 90 days" in found["retention"].text
    assert "images: 0 bytes" in found["storage"].text
    assert "will not be full" in found["disk space"].text


async def test_what_images_inputs_and_rows_take_is_counted(each_world: World, tmp_path: Path) -> None:
    small(each_world)
    given = picture()
    for _ in range(2):
        task_id = await each_world.post(input_image=base64.b64encode(given).decode())
    await each_world.go_on(6)
    task = await each_world.task(task_id)
    each_world.clock.advance(2 * 86_400)
    total = await each_world.use.db.read(storage._measure, each_world.clock.at)
    found = await read(each_world, tmp_path)

    assert (total[1].tasks, total[1].inputs) == (2, 2 * len(given))
    assert total[1] == total[2]
    assert task["image"]["bytes"] < total[1].images < 3 * task["image"]["bytes"]
    assert 2 <= total[3] < 2.1
    assert "a day" in found["storage"].text
    assert "in about" in found["disk space"].text


def disk(stored: Stored) -> Finding:
    return storage._disk("the image store", 29 * 10**9, [stored])


def test_a_disk_that_is_full_soon_is_a_warning() -> None:
    soon, later = disk(Stored(0, 10**9)), disk(Stored(0, 10**8))

    assert (soon.warning, soon.unhealthy, later.warning) == (True, False, False)
    assert "will be full in about 29 days" in soon.text
