"""What the database itself allows: our statements for groups of callbacks, committed one after the other, no HTTP."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from time import perf_counter

from app import clock
from app.db import Connection
from app.db.engine.database import open_database
from app.provider.messages import read_callback
from app.rules.task import Witness
from app.security.verify import Verdict
from app.settle import settle
from app.transitions.changes import Evidence
from benchmarks.seed import Callback
from benchmarks.stage import Stage

_GROUPS = (1, 16, 64)
_MOST = 4000
_LOOK_AFTER = timedelta(seconds=20)


def ceiling(stage: Stage) -> dict[str, float]:
    """Callbacks a second in groups of 1, 16 and 64, while the service is idle."""
    return {f"settled_per_s_in_{size}": _measure(stage, size) for size in _GROUPS}


def _measure(stage: Stage, size: int) -> float:
    # One by one a commit is most of it, so fewer are enough for the same time.
    count = min(_MOST, int(stage.pace * stage.seconds * (1 if size == 1 else 2)) + 4 * size)
    evidence = [_evidence(each) for each in stage.ours.seed(count)]
    groups = [evidence[begin : begin + size] for begin in range(0, count, size)]
    done, seconds = asyncio.run(_settle_all(stage.ours.url, groups, stage.seconds))
    return done / seconds


async def _settle_all(url: str, groups: Sequence[Sequence[Evidence]], most_s: float) -> tuple[int, float]:
    """How many were settled, and how long that took."""
    done = 0
    async with open_database(url) as database:
        await database.write(_settler(groups[0]))  # what is prepared once, and for the first statement
        began = perf_counter()
        for group in groups[1:]:
            await database.write(_settler(group))
            done += len(group)
            if perf_counter() - began > most_s:
                break
        return done, perf_counter() - began


def _settler(group: Sequence[Evidence]) -> Callable[[Connection], object]:
    return lambda connection: settle(connection, group, look_after=_LOOK_AFTER)


def _evidence(each: Callback) -> Evidence:
    return Evidence(
        submission_id=each.submission_id,
        witness=Witness.CALLBACK,
        verdict=Verdict.SIGNED,
        proven=True,
        report=read_callback(each.body),
        body=each.body,
        received_at=clock.utc_now(),
        headers='{"content-type": "application/json"}',
    )
