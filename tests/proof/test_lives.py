"""Random sequences of actions on the whole service over HTTP, with the twin as the provider."""

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
ACTIONS = st.lists(
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
    actions=ACTIONS,
)
def test_every_task_ends_and_is_charged_at_most_once_per_request(
    faults: Faults, actions: list[str], sqlite_template: Path
) -> None:
    with TemporaryDirectory() as folder:
        copyfile(sqlite_template, Path(folder) / "fluxhook.db")
        asyncio.run(live(Path(folder), faults, ["post", *actions]))


async def live(folder: Path, faults: Faults, actions: list[str]) -> None:
    posted: list[str] = []
    async with open_world(folder, f"sqlite:///{folder / 'fluxhook.db'}") as world:
        world.twin.rules = world.twin.rules.model_copy(update={"megapixels": 0.02})
        world.twin.faults = faults
        requests = 0
        for action in actions:
            if action == "post":
                posted.append(await world.post(prompt=f"a fox, {len(posted)}"))
                requests += 1
            elif action == "work":
                await loop.run_once(world.use)
            elif action == "die":
                await loop.start(world.use)
            elif action.startswith("wait"):
                await world.go_on(40 if action == "wait long" else 2, 2)
            else:
                answer = await world.api.post(f"/v1/tasks/{posted[len(actions) % len(posted)]}/{action}")
                requests += action == "resubmit" and answer.status_code == 202
        world.twin.faults = Faults()
        await world.go_on(900, 30)
        ends = [(await world.task(task_id))["status"] for task_id in posted]
        assert set(ends) <= {"stored", "failed", "cancelled"}
        assert world.ledger()["accepted"] <= requests
        assert ends.count("stored") <= world.ledger()["accepted"]
