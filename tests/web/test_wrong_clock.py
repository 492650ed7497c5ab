"""A service on a machine whose clock is wrong, on PostgreSQL: it works, and says so."""

from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from app.clock import utc_now
from tests.services import services_running
from tests.world import ADMIN_KEY

HOUR = timedelta(hours=1)


@pytest.mark.parametrize("wrong_by", [HOUR, -HOUR], ids=["ahead", "behind"])
async def test_a_task_with_a_deadline_in_half_an_hour_is_finished_at_once(
    tmp_path: Path, postgres_url: str, wrong_by: timedelta
) -> None:
    task = {"prompt": "a red fox", "deadline_at": (utc_now() + HOUR / 2).isoformat()}
    services = services_running(tmp_path, postgres_url, now=lambda: utc_now() + wrong_by)
    async with (
        services as (address, _),
        httpx.AsyncClient(base_url=address, headers={"x-key": ADMIN_KEY}, timeout=60) as api,
    ):
        posted = await api.post("/v1/tasks", json=task, headers={"prefer": "wait=60"}, timeout=120)
        ready = (await api.get("/readyz")).json()
        scraped = (await api.get("/metrics")).text.splitlines()
    (ahead,) = [line.rpartition(" ")[2] for line in scraped if line.startswith("fluxhook_clock_ahead_seconds ")]
    side = "ahead of" if wrong_by > timedelta() else "behind"

    assert posted.json()["status"] == "stored", posted.text
    assert abs(timedelta(seconds=float(ahead)) - wrong_by) < timedelta(minutes=1)
    assert ready["status"] == "ready"
    (note,) = ready["notes"]
    assert note.startswith("the clock of this machine is 3")
    assert f" s {side} the database's" in note
