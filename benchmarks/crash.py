"""Killing the service under full load, again and again: what it had acknowledged must be there afterwards."""

import time
from datetime import timedelta

from app import ids
from benchmarks.stage import Stage, signed

_LIFE = timedelta(seconds=1.5)  # at most, under load, until it is killed
_SOONEST_S = 0.2
_AFTERWARDS_S = 0.3  # of load on the service that was started again
_MOST_S = 120.0  # of one generator; it is ended sooner


def crash(stage: Stage, kills: int) -> dict[str, float]:
    """So many times `kill -9` at a random moment, each time started again on the same data."""
    acknowledged = []
    lost = 0
    for _ in range(kills):
        callbacks = stage.ours.seed(int(stage.pace * 1.5 * (_LIFE.total_seconds() + 1)) + 500)
        requests = [request for _, request in signed(callbacks)]
        with stage.drive.start(stage.ours.port, requests, _MOST_S) as running:
            running.await_first()
            time.sleep(_SOONEST_S + ids.jitter(_LIFE).total_seconds())
            stage.ours.kill()
            stage.ours.start()
            stage.ours.await_answer()
            time.sleep(_AFTERWARDS_S)
            outcome = running.finish()
        acknowledged += [callbacks[number] for number in outcome.acknowledged]
        lost += outcome.counts[0]
    before = stage.unstored
    stage.check(acknowledged)
    return {
        "kills": kills,
        "crash_acknowledged": len(acknowledged),
        "crash_unanswered": lost,
        "crash_unstored": stage.unstored - before,
    }
