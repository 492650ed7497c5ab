"""`make distance`: measure how many tasks a second two replicas end, by the length of a round trip to PostgreSQL."""

import argparse
import asyncio
import random  # noqa: TID251 - chooses free ports
import sys
import tempfile
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path

import httpx

from tests.proof.formation import Formation, Service, form
from tests.proof.processes import free_port, playing_twin

_SLOTS = 24
_READY_AFTER_S = 3.0
_RULES = {"slots": {"flux-kontext-pro": 100}, "account_slots": 200, "megapixels": 0.02, "credits": 1_000_000}
_WAITING = 2 * _SLOTS  # tasks that are posted at first
_POSTS_PER_S = _SLOTS / _READY_AFTER_S  # what the slots allow
_CLIENTS = 8
_WARM_UP = timedelta(seconds=10)  # each connection prepares each statement once


async def tasks_per_s(folder: Path, round_trip_ms: float, seconds: float, slowness: float) -> float:
    """Return how many tasks a second the provider ends, while more are waiting.

    `slowness` multiplies the durations of tasks and round trips, and the rate that was found: on a busy machine, the
    CPU then limits it less. Waits of the service itself stay as long as they are.
    """
    seconds, round_trip_ms = seconds * slowness, round_trip_ms * slowness
    rng = random.Random()  # noqa: S311 - chooses free ports
    port = free_port(rng)
    async with (
        playing_twin(port, 1, _READY_AFTER_S * slowness, folder / "twin.log") as twin,
        form(Formation("postgres", apis=2, proxied=True), folder, f"http://127.0.0.1:{port}", rng) as service,
        service.fleet.alive(),
    ):
        (await twin.put("/twin/rules", json=_RULES)).raise_for_status()
        assert service.proxy is not None
        service.proxy.delay_s = round_trip_ms / 2000
        posting = asyncio.create_task(_post(service, _POSTS_PER_S / slowness))
        try:
            await asyncio.sleep(2 * _WARM_UP / timedelta(seconds=1) + _READY_AFTER_S * slowness + seconds)
        finally:
            posting.cancel()
        entries = (await twin.get("/twin/ledger")).raise_for_status().json()["tasks"]
        service.proxy.delay_s = 0
    ready = [datetime.fromisoformat(entry["ready_at"]) for entry in entries if entry["ready_at"] is not None]
    since = min(ready) + _WARM_UP
    return slowness * sum(since < at <= since + timedelta(seconds=seconds) for at in ready) / seconds


async def _post(service: Service, per_s: float) -> None:
    """Post as fast as tasks can end, from a limited number of clients."""
    clients = asyncio.Semaphore(_CLIENTS)
    async with asyncio.TaskGroup() as group:
        for number in count():
            await clients.acquire()
            group.create_task(_post_one(service, number)).add_done_callback(lambda _: clients.release())
            await asyncio.sleep(0 if number < _WAITING else 1 / per_s)


async def _post_one(service: Service, number: int) -> None:
    answer = await service.api.post("/v1/tasks", json={"prompt": f"picture {number} of many"})
    if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
        answer.raise_for_status()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make distance", description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="duration of each measurement")
    parser.add_argument("--slowness", type=float, default=1.0, help="multiplies durations and rates; see the source")
    parser.add_argument("milliseconds", type=float, nargs="*", default=[0.2, 5, 20, 50], help="of a round trip")
    options = parser.parse_args(arguments)
    for milliseconds in options.milliseconds:
        with tempfile.TemporaryDirectory(prefix="fluxhook-distance-") as folder:
            rate = asyncio.run(tasks_per_s(Path(folder), milliseconds, options.seconds, options.slowness))
        sys.stdout.write(f"{milliseconds:g} ms: {rate:.1f} tasks a second\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
