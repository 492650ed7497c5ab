"""One run for each point of a scenario: die there, start again, and compare with the run that did not die."""

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.proof.crash_databases import Databases
from tests.proof.crash_points import Fuse, Point
from tests.proof.crash_scenarios import SCENARIOS, Scenario
from tests.proof.crash_world import End, open_crash_world

UNKNOWN = "failed: unknown_outcome"
_LONGEST_S = 60  # a run takes a fraction of a second
# In memory where there is such a folder: no power fails here, and a run would spend its time waiting for the disk.
FAST_FOLDER = next((folder for folder in ("/dev/shm",) if os.access(folder, os.W_OK)), None)  # noqa: S108


@dataclass(frozen=True, slots=True)
class Run:
    """What came of dying at one place."""

    scenario: str
    kind: str
    step: str
    place: str
    outcome: str
    charges: int
    by_design: bool = False  # ends otherwise than without the crash, and has to
    differs: str | None = None


async def without_crash(databases: Databases, scenario: Scenario) -> tuple[End, list[Point]]:
    """How it ends when nobody dies, and every point that is passed on the way."""
    fuse = Fuse()
    with TemporaryDirectory(dir=FAST_FOLDER) as folder:
        async with open_crash_world(Path(folder), databases, scenario) as world:
            end = await world.live(fuse)
    assert end is not None
    assert (end.outcome, end.wrong) == (scenario.ends, ()), end
    return end, fuse.passed


async def crash_at(databases: Databases, name: str, point: Point, usual: End) -> Run:
    """Die at this point, be away for a while, start again and let everything come to its end."""
    scenario, fuse = SCENARIOS[name], Fuse(at=point)
    with TemporaryDirectory(dir=FAST_FOLDER) as folder:
        async with asyncio.timeout(_LONGEST_S), open_crash_world(Path(folder), databases, scenario) as world:
            died = await world.live(fuse) is None
            accepted = world.twin.ledger()["accepted"] > 0
            await world.be_down()
            end = await world.live(Fuse(armed=False))
    assert end is not None
    # Bytes may have left and nobody can tell any more: not refused, not accepted, or accepted and never called back.
    lost = fuse.answer_open and not (accepted and scenario.callback_requested)
    expected = End(UNKNOWN, None, int(accepted), int(accepted)) if lost else usual
    return Run(
        scenario=name,
        kind="injected",
        step=point.step,
        place=point.place,
        outcome=end.outcome,
        charges=end.charges,
        by_design=lost,
        differs=_difference(end, expected, died=died),
    )


def _difference(end: End, expected: End, *, died: bool) -> str | None:
    if not died:
        return "the point was not reached"
    return None if end == expected else f"{end}, expected {expected}"


def crash_all(databases: Databases, name: str, points: list[Point], usual: End) -> list[Run]:
    """A share of a scenario's points, one after the other: what one process of the matrix does."""

    async def run() -> list[Run]:
        return [await crash_at(databases, name, point, usual) for point in points]

    return asyncio.run(run())
