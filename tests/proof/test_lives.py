"""Whole lives of a service over HTTP, with the twin for a provider: fewer steps, and nothing in between left out."""

import asyncio
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.twin import Faults
from app.worker import loop
from tests.world import open_world

pytestmark = pytest.mark.proof

LIKELY = st.sampled_from([0, 0, 0.3, 1])
DOINGS = st.lists(
    st.sampled_from(["post", "post", "work", "wait", "wait long", "cancel", "resubmit", "die"]), max_size=12
)


@settings(max_examples=6)
@given(
    faults=st.builds(
        Faults,
        seed=st.integers(0, 9),
        **dict.fromkeys(("drop_callback", "double_callback", "reorder_callbacks", "forge_callback"), LIKELY),
        **dict.fromkeys(("unsigned_callback", "early_callback", "lose_answer_after", "submit_429"), LIKELY),
        **dict.fromkeys(("submit_5xx", "lose_answer_before", "truncated_body"), LIKELY),
    ),
    doings=DOINGS,
)
def test_whatever_happens_each_task_ends_and_is_charged_once_for_each_time_it_was_asked_for(
    faults: Faults, doings: list[str], sqlite_template: Path
) -> None:
    with TemporaryDirectory() as folder:
        copyfile(sqlite_template, Path(folder) / "fluxhook.db")
        asyncio.run(live(Path(folder), faults, ["post", *doings]))


async def live(folder: Path, faults: Faults, doings: list[str]) -> None:
    posted: list[str] = []
    async with open_world(folder, f"sqlite:///{folder / 'fluxhook.db'}") as world:
        world.twin.rules = world.twin.rules.model_copy(update={"megapixels": 0.02})
        world.twin.faults = faults
        asked = 0
        for doing in doings:
            if doing == "post":
                posted.append(await world.post(prompt=f"a fox, {len(posted)}"))
                asked += 1
            elif doing == "work":
                await loop.run_once(world.use)
            elif doing == "die":
                await loop.start(world.use)
            elif doing.startswith("wait"):
                await world.go_on(40 if doing == "wait long" else 2, 2)
            else:
                answer = await world.api.post(f"/v1/tasks/{posted[len(doings) % len(posted)]}/{doing}")
                asked += doing == "resubmit" and answer.status_code == 202
        world.twin.faults = Faults()
        await world.go_on(900, 30)
        ends = [(await world.task(task_id))["status"] for task_id in posted]
        assert set(ends) <= {"stored", "failed", "cancelled"}
        assert world.ledger()["accepted"] <= asked
        assert ends.count("stored") <= world.ledger()["accepted"]
