"""`make capacity`: two replicas fill the provider's slots, never exceed them, and 10,000 tasks wait in little memory.

Prints the figures and each broken promise, and exits with 1 if there is one.
"""

import argparse
import asyncio
import random  # noqa: TID251 - chooses free ports
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from tests.proof.fleet import Member
from tests.proof.formation import Formation, Service, form
from tests.proof.processes import free_port, playing_twin

SLOTS = 24
MOST_GROWTH_MB = 30.0
LEAST_USE = 0.9
# Above the service's limits: a twin that refuses the 25th task would hide that it was sent.
_RULES = {"slots": {"flux-kontext-pro": 100}, "account_slots": 200, "megapixels": 0.02, "credits": 1_000_000}
_AT_ONCE = 16  # concurrent posts
_WARM = 200  # posts before the first measurement of memory
_NEVER_S = 24 * 3600.0
_MAX_S = 600.0  # only guards against hanging
_LOOK_S = 3.0  # time to send a task too many


@dataclass(frozen=True, slots=True)
class Filled:
    """The use of the slots while tasks waited, according to the twin's ledger."""

    tasks: int
    ready_after_s: float
    max_in_flight: int
    seconds: float  # from the first accepted task to the last ready one

    @property
    def in_use(self) -> float:
        """The used share of the slots' capacity; 1 means that no slot ever waits for its next task."""
        return self.tasks * self.ready_after_s / SLOTS / self.seconds

    @property
    def broken(self) -> list[str]:
        promises = {
            f"never more than {SLOTS} in flight": self.max_in_flight <= SLOTS,
            f"at least {LEAST_USE:.0%} of what {SLOTS} slots allow": self.in_use >= LEAST_USE,
        }
        return [promise for promise, kept in promises.items() if not kept]


async def fill(folder: Path, tasks: int, ready_after_s: float) -> Filled:
    """Post tasks through two replicas on PostgreSQL, and measure them by the provider's ledger."""
    async with _playing(folder, Formation("postgres", apis=2), ready_after_s) as (twin, service):
        await _post(service, tasks)
        while (ledger := (await twin.get("/twin/ledger")).json())["accepted"] < tasks:  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(ready_after_s)
    entries = ledger["tasks"]
    accepted = min(_instant(entry["accepted_at"]) for entry in entries)
    ready = max(_instant(entry["ready_at"]) for entry in entries)
    return Filled(tasks, ready_after_s, ledger["max_in_flight"]["account"], (ready - accepted).total_seconds())


async def in_flight_by_account(folder: Path, accounts: int, tasks: int) -> Counter[str]:
    """Post tasks that never end through two APIs and two workers, one of which is killed when all slots are taken.

    Return how many each account got, by the provider's ledger.
    """
    formation = Formation("postgres", apis=2, workers=2, accounts=accounts)
    async with _playing(folder, formation, _NEVER_S) as (twin, service):

        async def accepted() -> list[dict[str, Any]]:
            return list((await twin.get("/twin/ledger")).raise_for_status().json()["tasks"])

        await _post(service, tasks)
        async with asyncio.timeout(_MAX_S):
            while len(await accepted()) < accounts * SLOTS:  # noqa: ASYNC110 - it is another process
                await asyncio.sleep(0.2)
        worker = service.fleet.members[-1]
        await worker.end()
        await worker.start()
        await worker.is_ready()
        await _post(service, 1)
        await asyncio.sleep(_LOOK_S)
        return Counter(entry["account"] for entry in await accepted())


async def growth_mb(folder: Path, database: str, tasks: int) -> float:
    """Measure how many MiB one process grows while this many tasks wait behind 24 that never end."""
    formation = Formation("postgres" if database == "postgres" else "sqlite")
    async with _playing(folder, formation, _NEVER_S) as (_, service):
        await _post(service, _WARM)
        before = _resident_mb(service.fleet.members[0])
        await _post(service, tasks)
        waiting = (
            (await service.api.get("/v1/tasks", params={"status": "queued", "limit": 1})).raise_for_status().json()
        )
        assert waiting["tasks"], "no task is queued"
        return _resident_mb(service.fleet.members[0]) - before


@asynccontextmanager
async def _playing(
    folder: Path, formation: Formation, ready_after_s: float
) -> AsyncGenerator[tuple[httpx.AsyncClient, Service]]:
    rng = random.Random()  # noqa: S311 - chooses free ports
    port = free_port(rng)
    async with (
        playing_twin(port, 1, ready_after_s, folder / "twin.log") as twin,
        form(formation, folder, f"http://127.0.0.1:{port}", rng) as service,
        service.fleet.alive(),
    ):
        (await twin.put("/twin/rules", json=_RULES)).raise_for_status()
        yield twin, service


async def _post(service: Service, tasks: int) -> None:
    """Post with limited concurrency, so that the machine can also process the tasks."""
    semaphore = asyncio.Semaphore(_AT_ONCE)

    async def post(number: int) -> None:
        async with semaphore:
            body: Mapping[str, Any] = {"prompt": f"picture {number} of many"}
            (await service.api.post("/v1/tasks", json=body)).raise_for_status()

    await asyncio.gather(*map(post, range(tasks)))


def _resident_mb(member: Member) -> float:
    assert member.process is not None
    status = Path(f"/proc/{member.process.pid}/status").read_text()
    (kilobytes,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(kilobytes) / 1024


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    broken = []
    with tempfile.TemporaryDirectory(prefix="fluxhook-capacity-") as folder:
        for database in ("sqlite", "postgres"):
            began, place = time.monotonic(), _folder(folder, database)
            grown = asyncio.run(growth_mb(place, database, options.waiting))
            _say(f"{options.waiting} waiting tasks on {database}: {grown:+.1f} MB, {time.monotonic() - began:.0f} s")
            broken += [f"less than {MOST_GROWTH_MB:.0f} MB on {database}"] * (grown >= MOST_GROWTH_MB)
        filled = asyncio.run(fill(_folder(folder, "replicas"), options.tasks, options.ready_after))
        _say(
            f"{filled.tasks} tasks of {filled.ready_after_s} s each through two replicas: {filled.seconds:.0f} s, "
            f"{filled.in_use:.1%} of what {SLOTS} slots allow, at most {filled.max_in_flight} in flight"
        )
    _say("".join(f"BROKEN: {promise}\n" for promise in broken + filled.broken))
    return 1 if broken or filled.broken else 0


def _folder(parent: str, name: str) -> Path:
    folder = Path(parent) / name
    folder.mkdir()
    return folder


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make capacity", description=__doc__)
    parser.add_argument("--waiting", type=int, default=10_000, help="number of waiting tasks while memory is measured")
    parser.add_argument("--tasks", type=int, default=5_000, help="number of tasks through the two replicas")
    parser.add_argument("--ready-after", type=float, default=3.0, help="seconds that the twin takes for each task")
    return parser


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
