"""The floor of a whole task, with the twin and an application over real sockets."""

from pathlib import Path

import httpx

from benchmarks.applications import Client, application
from benchmarks.floor import floor
from benchmarks.ready_twin import ready_twin
from tests.sockets import listening, serving


async def test_the_floor_stores_the_image_of_a_task_and_sends_its_webhook(tmp_path: Path) -> None:
    twin_bound, provider = listening()
    floor_bound, address = listening()
    async with (
        serving(ready_twin(0.1, 0.01), twin_bound),
        serving(floor(tmp_path, provider), floor_bound),
        application() as app,
        httpx.AsyncClient(timeout=60) as client,
    ):
        poster = Client(int(address.rpartition(":")[2]), {})
        task_ids = [await poster.post({"prompt": "a red fox", "webhook_url": app.url}) for _ in range(2)]
        for task_id in task_ids:
            await app.webhook_of(task_id)
        poster.close()
        entries = (await client.get(f"{provider}/twin/ledger")).json()["tasks"]

    files = [(tmp_path / f"{task_id}.jpg").read_bytes() for task_id in task_ids]
    assert [entry["status"] for entry in entries] == ["Ready", "Ready"]
    assert all(file.startswith(b"\xff\xd8") for file in files)
    assert files[0] != files[1]
