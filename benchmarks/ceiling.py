"""The limit of the database: batches of callbacks settled and committed one after another, without HTTP."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from time import perf_counter

from app import clock
from app.db import Connection
from app.db.engine.database import open_database
from app.db.tables.evidence import Evidence
from app.provider.messages import read_callback
from app.rules.task import Witness
from app.security.verify import Verdict
from app.settle import settle
from benchmarks.seed import Callback
from benchmarks.stage import Stage

_BATCH_SIZES = (1, 16, 64)
_MAX_CALLBACKS = 4000
_POLL_AFTER = timedelta(seconds=20)


def ceiling(stage: Stage) -> dict[str, float]:
    """Measure callbacks per second in batches of 1, 16 and 64, while the service is idle."""
    return {f"settled_per_s_in_{size}": _measure(stage, size) for size in _BATCH_SIZES}


def _measure(stage: Stage, size: int) -> float:
    # With a batch of 1 the commit takes most of the time, so fewer callbacks fill the same duration.
    count = min(_MAX_CALLBACKS, int(stage.pace * stage.seconds * (1 if size == 1 else 2)) + 4 * size)
    evidence = [_evidence(callback) for callback in stage.ours.seed(count)]
    batches = [evidence[begin : begin + size] for begin in range(0, count, size)]
    done, seconds = asyncio.run(_settle_all(stage.ours.url, batches, stage.seconds))
    return done / seconds


async def _settle_all(url: str, batches: Sequence[Sequence[Evidence]], max_seconds: float) -> tuple[int, float]:
    """Return how many callbacks were settled, and the seconds that it took."""
    done = 0
    async with open_database(url) as database:
        await database.write(_settler(batches[0]))  # not measured: it prepares the connection and its statements
        began = perf_counter()
        for batch in batches[1:]:
            await database.write(_settler(batch))
            done += len(batch)
            if perf_counter() - began > max_seconds:
                break
        return done, perf_counter() - began


def _settler(batch: Sequence[Evidence]) -> Callable[[Connection], object]:
    return lambda connection: settle(connection, batch, poll_after=_POLL_AFTER)


def _evidence(callback: Callback) -> Evidence:
    return Evidence(
        attempt_id=callback.attempt_id,
        witness=Witness.CALLBACK,
        verdict=Verdict.SIGNED,
        proven=True,
        report=read_callback(callback.body),
        body=callback.body,
        received_at=clock.utc_now(),
        headers='{"content-type": "application/json"}',
    )
