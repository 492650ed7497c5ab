"""Kill the service repeatedly under full load: every acknowledged callback must be stored afterwards."""

import time
from datetime import timedelta

from app import ids
from benchmarks.stage import Stage, signed

_LIFE = timedelta(seconds=1.5)  # longest time under load before a kill
_SOONEST_S = 0.2
_AFTERWARDS_S = 0.3  # load on the restarted service
_MAX_S = 600.0  # of one generator, which is stopped sooner


def crash(stage: Stage, kills: int) -> dict[str, float]:
    """Send `kill -9` this many times at random moments, and restart on the same data each time."""
    acknowledged = []
    unanswered = 0
    for _ in range(kills):
        callbacks = stage.ours.seed(int(stage.pace * 1.5 * (_LIFE.total_seconds() + 1)) + 500)
        requests = [request for _, request in signed(callbacks)]
        with stage.drive.start(stage.ours.port, requests, _MAX_S) as running:
            running.await_first()
            time.sleep(_SOONEST_S + ids.jitter(_LIFE).total_seconds())
            stage.ours.kill()
            stage.ours.start()
            stage.ours.await_answer()
            time.sleep(_AFTERWARDS_S)
            outcome = running.finish()
        acknowledged += [callbacks[number] for number in outcome.acknowledged]
        unanswered += outcome.counts[0]
    before = stage.unstored
    stage.check(acknowledged)
    return {
        "kills": kills,
        "crash_acknowledged": len(acknowledged),
        "crash_unanswered": unanswered,
        "crash_unstored": stage.unstored - before,
    }
