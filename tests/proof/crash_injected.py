"""One run for each point of a scenario: crash there, restart, and compare with the run without a crash."""

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.proof.crash_databases import Databases
from tests.proof.crash_points import Fuse, Point
from tests.proof.crash_scenarios import REMOVED, SCENARIOS, Scenario
from tests.proof.crash_world import End, open_crash_world

UNKNOWN = "failed: unknown_outcome"
_LONGEST_S = 120  # a run takes a fraction of a second
# In memory if possible: no run loses power, and flushes would take most of the time of a run.
FAST_FOLDER = next((folder for folder in ("/dev/shm",) if os.access(folder, os.W_OK)), None)  # noqa: S108


@dataclass(frozen=True, slots=True)
class Run:
    """The result of a crash at one point."""

    scenario: str
    kind: str
    step: str
    place: str
    outcome: str
    charges: int
    by_design: bool = False  # the result must differ from that without a crash
    differs: str | None = None  # from the expected result


async def without_crash(databases: Databases, scenario: Scenario) -> tuple[End, list[Point]]:
    """Run the scenario without a crash; return its end and every point that it passes."""
    fuse = Fuse(loses_commit_answer_of=scenario.loses_commit_answer_of)
    with TemporaryDirectory(dir=FAST_FOLDER) as folder:
        async with open_crash_world(Path(folder), databases, scenario) as world:
            end = await world.live(fuse)
    assert end is not None
    assert (end.outcome, end.wrong) == (scenario.ends, ()), end
    return end, fuse.passed


async def crash_at(databases: Databases, name: str, point: Point, usual: End) -> Run:
    """Crash at this point, stay down for a while, restart, and run to the end."""
    scenario = SCENARIOS[name]
    fuse = Fuse(at=point, loses_commit_answer_of=scenario.loses_commit_answer_of)
    with TemporaryDirectory(dir=FAST_FOLDER) as folder:
        async with asyncio.timeout(_LONGEST_S), open_crash_world(Path(folder), databases, scenario) as world:
            died = await world.live(fuse) is None
            accepted = world.twin.ledger()["accepted"] > 0
            await world.be_down()
            end = await world.live(Fuse(armed=False))
    assert end is not None
    # Bytes may have left, no answer is stored, and no callback will come: nothing proves what happened.
    is_unknown = fuse.answer_open and not (accepted and scenario.callback_requested)
    unknown = REMOVED if usual.outcome == REMOVED else UNKNOWN  # what ends by removal removes a failed task too
    expected = End(unknown, None, int(accepted), int(accepted)) if is_unknown else usual
    return Run(
        scenario=name,
        kind="injected",
        step=point.step,
        place=point.place,
        outcome=end.outcome,
        charges=end.charges,
        by_design=is_unknown,
        differs=_difference(end, expected, died=died),
    )


def _difference(end: End, expected: End, *, died: bool) -> str | None:
    if not died:
        return "the point was not reached"
    return None if end == expected else f"{end}, expected {expected}"


def crash_all(databases: Databases, name: str, points: list[Point], usual: End) -> list[Run]:
    """Crash at each of these points of a scenario, one after another; runs in one process of the matrix."""

    async def run() -> list[Run]:
        return [await crash_at(databases, name, point, usual) for point in points]

    return asyncio.run(run())
