"""An outage of one resource is not reported as another's, at whichever call of whichever step it happens."""

from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from app.collect import store_spooled
from app.errors import Unavailable
from app.telemetry import metrics
from app.twin import Faults
from app.worker import loop
from tests.calling import small
from tests.faults import BreakingHost, BreakingStore, Trip, failing_transaction, lost_commit_answer
from tests.pictures import in_base64, picture
from tests.proof.crash_databases import Databases, Files, OnServer
from tests.receivers import HOST, URL, receiver
from tests.world import GATEWAY, World, open_world

EDIT = {"prompt": "in winter", "input_image": in_base64(picture(64, 64)), "webhook_url": URL}
LOST = "commit answer"  # a commit succeeds, and the connection is lost before its answer
COUNTERS = ("results_spooled", "assets_lost", "orphaned_tasks_recovered", "endpoints_stopped", "callbacks_shed")
NOTES = ("spools images", "cannot be downloaded")
# What may be counted, noted or written into the timeline if this resource fails once. All else would blame another.
BLAMED: Mapping[str, set[str]] = {
    "database": set(),
    LOST: set(),
    "store": {"results_spooled", "kept_aside", "spools images"},
    "provider": {"submit down", "poll lost"},
    "result host": {"download failed", "cannot be downloaded"},
    "receiver": {"webhook unreachable"},
}


@dataclass
class Run:
    """One task from its post to its erasure, and what was blamed for the fault in between."""

    world: World
    trip: Trip
    blamed: set[str] = field(default_factory=set)

    async def finish(self) -> dict[str, Any]:
        """Run the task, and return its last view before it is erased."""
        before = counted()
        while not await loop.start(self.world.use):
            self.world.clock.advance(1)
        task_id = await self._post()
        for _ in range(60):
            await self._work()
            if await self._has_ended(task_id):
                break
            self.world.clock.advance(2)
            await self.world.twin.tick()
        task = await self._get(f"/v1/tasks/{task_id}")
        for entry in (await self._get(f"/v1/tasks/{task_id}/timeline"))["entries"]:
            if entry["event"] == "download" and entry["outcome"] != "stored":
                self.blamed.add("kept_aside" if entry["outcome"] == "kept_aside" else "download failed")
        while (await self.world.api.delete(f"/v1/tasks/{task_id}")).is_server_error:
            self.world.clock.advance(1)
        await self._work()
        self.world.clock.advance(600)
        await self._work()
        with suppress(Unavailable):
            await store_spooled(self.world.use)
        await self._look()
        self.blamed |= {name for name, count in counted().items() if count > before[name]}
        return task

    async def _post(self) -> str:
        """Post as a client does: again with the same key, as long as the error is temporary."""
        while True:
            answer = await self.world.api.post("/v1/tasks", json=EDIT, headers={"idempotency-key": "the-only-key"})
            if answer.status_code == 202:
                return str(answer.json()["id"])
            assert answer.status_code in {409, 503}, answer.text  # 409: the first request may still be answered
            self.world.clock.advance(30)

    async def _work(self) -> None:
        """Run all due jobs. As in the worker's loop, a failing claim is repeated."""
        while True:
            try:
                if not await loop.run_once(self.world.use):
                    return
            except Unavailable:
                continue
            await self._look()

    async def _look(self) -> None:
        """Note what `/readyz` blames now."""
        ready = await self._get("/readyz")
        self.blamed |= {f"check: {name}" for name, check in ready["checks"].items() if check != "ok"}
        self.blamed |= {next((text for text in NOTES if text in note), note) for note in ready["notes"]}
        self.blamed |= {"dead letter"} if (await self._get("/v1/jobs/held"))["jobs"] else set()

    async def _has_ended(self, task_id: str) -> bool:
        status = (await self._get(f"/v1/tasks/{task_id}"))["status"]
        deliveries = (await self._get("/v1/deliveries"))["deliveries"]
        return status in {"stored", "failed"} and all(delivery["state"] != "waiting" for delivery in deliveries)

    async def _get(self, path: str) -> dict[str, Any]:
        with self.trip.pause():
            found: dict[str, Any] = (await self.world.api.get(path)).json()
        return found


def counted() -> Counter[str]:
    """Return the counters that alert rules read, named for what they blame."""
    counts = Counter[str]()
    for family in metrics.REGISTRY.collect():
        for sample in family.samples:
            name, labels = sample.name.removeprefix("fluxhook_").removesuffix("_total"), sample.labels
            if name in COUNTERS:
                counts[name] += int(sample.value)
            elif name == "provider_request_seconds_count" and labels["said"] in {"down", "lost"}:
                counts[f"{labels['request']} {labels['said']}"] += int(sample.value)
            elif name == "downloads_failed":
                counts["download failed"] += int(sample.value)
            elif name == "webhook_attempts" and labels["outcome"] != "delivered":
                counts[f"webhook {labels['outcome']}"] += int(sample.value)
    return counts


@asynccontextmanager
async def run_with(
    folder: Path, databases: Databases, resource: str, number: int | None, *, polled: bool
) -> AsyncGenerator[Run]:
    """Open a world in which the `number`-th call of this resource fails."""
    folder.mkdir()  # noqa: ASYNC240 - in memory
    trip, store = Trip(number), BreakingStore(folder / "images", success_lasts_s=0)
    url = await databases.fresh(folder)
    async with open_world(folder, url, store=store, public_url=None if polled else GATEWAY) as world:
        receiver(world)
        small(world)
        world.twin.faults = Faults(drop_callback=1) if polled else Faults()
        proof = world.use.keys.callback_proof("sub_unknown", world.use.keys.newest)
        await world.outsider.post(f"/callbacks/sub_unknown/{proof.token}")  # opens the connection for callbacks
        hosts = world.network.hosts
        failing: AbstractContextManager[None] = nullcontext()
        match resource:
            case "database":
                failing = failing_transaction(world.use.db, trip)
            case _ if resource == LOST:
                failing = lost_commit_answer(world.use.db, trip)
            case "store":
                store.trip = trip
            case "provider":
                hosts["twin"] = BreakingHost(hosts["twin"], trip, lambda path: not path.startswith("/delivery/"))
            case "result host":
                hosts["twin"] = BreakingHost(hosts["twin"], trip, lambda path: path.startswith("/delivery/"))
            case _:
                hosts[HOST] = BreakingHost(hosts[HOST], trip)
        with failing:
            yield Run(world, trip)


@pytest.fixture
def databases(request: pytest.FixtureRequest) -> Databases:
    if request.param == "sqlite":
        return Files(request.getfixturevalue("sqlite_template"))
    return OnServer(request.getfixturevalue("postgres").dsn, request.getfixturevalue("postgres_template"))


@pytest.mark.parametrize(
    ("databases", "resource", "polled"),
    [
        *(("sqlite", resource, polled) for resource in sorted(BLAMED.keys() - {LOST}) for polled in (False, True)),
        *(("postgres", resource, False) for resource in ("database", LOST)),
    ],
    indirect=["databases"],
)
async def test_whichever_call_fails_only_its_resource_is_blamed(
    tmp_path: Path, databases: Databases, resource: str, polled: bool
) -> None:
    async with run_with(tmp_path / "usual", databases, resource, None, polled=polled) as usual:
        task = await usual.finish()
    assert (task["status"], usual.blamed) == ("stored", set())
    wrong = {}
    for number in range(1, usual.trip.calls + 1):
        async with run_with(tmp_path / str(number), databases, resource, number, polled=polled) as run:
            task = await run.finish()
            ledger = run.world.ledger()
        found = run.blamed - BLAMED[resource], task["status"], ledger["charged"], ledger["accepted"]
        if found != (set(), "stored", 4, 1):
            wrong[number] = found

    assert usual.trip.calls > 0
    assert wrong == {}
