"""What operators see: the counters, and who may read them."""

import pytest

from app import metrics
from tests.web.documents import problem
from tests.world import World

NAMES = ("fluxhook_assets_lost_total", "fluxhook_tasks_repaired_by_poll_total", "fluxhook_tasks_unscheduled_total")


async def test_every_counter_is_there_from_the_start_with_a_sentence(world: World) -> None:
    answer = await world.api.get("/metrics")

    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    for name in NAMES:
        assert f"\n{name} " in answer.text
        assert f"# HELP {name} " in answer.text


async def test_the_counters_are_read_with_a_key_alone(world: World) -> None:
    problem(await world.outsider.get("/metrics"), 401, "unauthorized")


@pytest.mark.parametrize("name", NAMES)
def test_a_counter_has_no_label_that_a_user_could_fill(name: str) -> None:
    lines = [line for line in metrics.exposition().decode().splitlines() if line.startswith(name)]

    assert len(lines) == 1
    assert "{" not in lines[0]
