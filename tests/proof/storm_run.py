"""One storm: posts tasks during faults and kills, until all are final or the time limit passes."""

import asyncio
import hashlib
import random  # noqa: TID251 - a storm is repeated by its seed
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import httpx

from app.clock import utc_now
from app.jobs import LEASE
from tests.pictures import in_base64, picture
from tests.proof import network_faults
from tests.proof.formation import Formation, Service, form
from tests.proof.network_faults import Played
from tests.proof.processes import free_port, playing_twin

FAULTS: Mapping[str, float] = {
    "drop_callback": 0.10,
    "double_callback": 0.10,
    "reorder_callbacks": 0.10,
    "forge_callback": 0.05,
    "unsigned_callback": 0.05,
    "lose_answer_after": 0.05,
    "submit_5xx": 0.05,
    "submit_429": 0.05,
    # A link that expires soon after the image is ready, and one whose first use is refused.
    "expired_link": 0.02,
    "refused_link": 0.02,
}
# Above the service's limits of 24 and 6: a twin that refuses the 25th task would hide that it was sent.
_SLOTS = {"slots": {"flux-kontext-pro": 100, "flux-kontext-max": 100}, "account_slots": 200}
_RULES = {**_SLOTS, "megapixels": 0.02, "credits": 1_000_000}
_READY_AFTER_S = 0.5
_READY_AFTER_WITH_ACCOUNTS_S = 20  # so that many slots of three accounts are in use at once
_READY_AFTER_WITH_NETWORK_S = 5.0  # so that some tasks are in progress when a fault begins
_OPEN = ("queued", "submitting", "submitted", "ready")
_PAGE = 100
_CLIENTS = 40  # each waits for the answer to its post, so a slow service gets fewer posts


@dataclass(frozen=True, slots=True)
class Storm:
    """The options of a storm. `hold_s` is slightly longer than the provider retries callbacks (36 s)."""

    tasks: int = 2000
    seed: int = 1
    hold_s: int = 40
    lifetime_s: tuple[float, float] = (3, 8)  # until the next kill
    most_kills: int | None = None
    posts_per_s: float = 25
    database: Literal["sqlite", "postgres"] = "sqlite"
    workers: int = 1  # one worker is also the API; several run with two APIs
    network: bool = False  # whether the network to PostgreSQL fails instead of processes
    gap_s: tuple[float, float] = (5, 10)  # between two faults of the network
    statement_s: int = 30  # FLUXHOOK_STATEMENT_SECONDS: the service notices a silent connection a little later
    scale: float = 1  # multiplies the durations of these faults
    accounts: int = 1  # keys at the twin, which gives each the slots of an account

    @property
    def bound_s(self) -> float:
        """The time limit of a run in seconds."""
        return 900 + 0.4 * self.tasks

    @property
    def ready_after_s(self) -> float:
        if self.accounts > 1:
            return _READY_AFTER_WITH_ACCOUNTS_S
        return _READY_AFTER_WITH_NETWORK_S if self.network else _READY_AFTER_S

    @property
    def formation(self) -> Formation:
        hold_s = self.hold_s + 2 * round(self.ready_after_s)  # the last callback comes that much later
        if self.workers == 1:
            return Formation(self.database, hold_s=hold_s, accounts=self.accounts)
        return Formation(
            self.database,
            apis=2,
            workers=self.workers,
            hold_s=hold_s,
            statement_s=self.statement_s,
            accounts=self.accounts,
            proxied=self.network,
        )

    @property
    def faults(self) -> dict[str, float]:
        # If a link expired before the lease of a killed worker, its image would be lost.
        near_expiry_s = 15 + (LEASE.total_seconds() if self.database == "postgres" else 0)
        return {**FAULTS, "near_expiry_s": near_expiry_s, "seed": self.seed}


@dataclass(slots=True)
class Seen:
    """The observations at the end of a storm, from both sides."""

    kills: list[datetime] = field(default_factory=list)
    database_kills: list[datetime] = field(default_factory=list)
    network_faults: list[Played] = field(default_factory=list)
    ended_by_itself: int = 0
    turned_away: int = 0
    complaints: Counter[str] = field(default_factory=Counter)
    asked: list[str] = field(default_factory=list)  # all prompts
    asked_at: dict[str, datetime] = field(default_factory=dict)  # the time of its first post, by prompt
    posted: dict[str, str] = field(default_factory=dict)  # task id by prompt
    tasks: list[dict[str, Any]] = field(default_factory=list)
    timelines: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # of tasks that are not stored, by id
    images: dict[str, str] = field(default_factory=dict)  # digest of the served image, by task id
    ledger: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0


async def go_through(storm: Storm, folder: Path) -> Seen:
    rng = random.Random(storm.seed)  # noqa: S311 - a storm is repeated by its seed
    twin_port = free_port(rng)
    seen, began = Seen(), time.monotonic()
    async with (
        playing_twin(twin_port, storm.seed, storm.ready_after_s, folder / "twin.log") as twin,
        form(storm.formation, folder, f"http://127.0.0.1:{twin_port}", rng) as service,
    ):
        (await twin.put("/twin/rules", json=_RULES)).raise_for_status()
        (await twin.put("/twin/faults", json=storm.faults)).raise_for_status()
        fleet = service.fleet
        async with fleet.alive():
            await _post_and_wait(storm, service, rng, seen)
            seen.seconds = time.monotonic() - began
            await _look(service.api, seen)
        seen.ledger = (await twin.get("/twin/ledger")).json()
    seen.kills, seen.database_kills = fleet.kills, fleet.database_kills
    seen.ended_by_itself, seen.turned_away, seen.complaints = (
        fleet.ended_by_itself,
        fleet.turned_away,
        fleet.complaints(),
    )
    return seen


async def _post_and_wait(storm: Storm, service: Service, rng: random.Random, seen: Seen) -> None:
    """Post all tasks and wait until they are final, within the time limit; the judge counts the others."""
    bodies = [_body(storm, number, rng) for number in range(storm.tasks)]
    seen.asked = [body["prompt"] for body in bodies]
    disturbed = (
        _post_during_faults(storm, service, bodies, seen)
        if storm.network
        else _post_during_kills(storm, service, bodies, seen)
    )
    with suppress(TimeoutError):
        async with asyncio.timeout(storm.bound_s):
            await disturbed


async def _post_during_kills(storm: Storm, service: Service, bodies: list[dict[str, Any]], seen: Seen) -> None:
    calm = asyncio.Event()
    kills = random.Random(storm.seed)  # noqa: S311 - see above
    living = asyncio.create_task(service.fleet.kill_at_random(kills, storm.lifetime_s, calm, storm.most_kills))
    try:
        async with asyncio.TaskGroup() as group:
            await _post_all(group, service, bodies, len(bodies) / storm.posts_per_s, seen)
        await _all_final(service)
    finally:
        calm.set()
        await living


async def _post_during_faults(storm: Storm, service: Service, bodies: list[dict[str, Any]], seen: Seen) -> None:
    """Play each fault of the network once, and post an equal share of the tasks for each: half of it just before."""
    rng = random.Random(storm.seed)  # noqa: S311 - see above
    names = rng.sample(network_faults.NAMES, len(network_faults.NAMES))
    async with asyncio.TaskGroup() as group:
        for number, name in enumerate(names):
            before, during = bodies[2 * number :: 2 * len(names)], bodies[2 * number + 1 :: 2 * len(names)]
            gap_s, fault_s = rng.uniform(*storm.gap_s), network_faults.seconds(name) * storm.scale
            await _post_all(group, service, before, gap_s, seen)
            async with network_faults.played(service, name) as until_now:
                await _post_all(group, service, during, fault_s, seen)
                seen.network_faults.append(until_now())
            await service.fleet.all_ready()
    await _all_final(service)


def _body(storm: Storm, number: int, rng: random.Random) -> dict[str, Any]:
    """Make a task: some use the model with fewer slots, some have an image, some fail at the provider."""
    ending = rng.choices(("", ", forbidden", ", fail"), (98, 1, 1))[0]
    body = {"prompt": f"storm {storm.seed}, picture {number}{ending}"}
    body["model"] = rng.choices(("flux-kontext-pro", "flux-kontext-max"), (85, 15))[0]
    if rng.random() < 0.05:
        body["input_image"] = in_base64(picture(64, 48))
    return body


async def _post_all(
    group: asyncio.TaskGroup, service: Service, bodies: list[dict[str, Any]], seconds: float, seen: Seen
) -> None:
    """Start the posts in `group`, evenly in this time, or more slowly if too many of them have no answer yet."""
    semaphore = asyncio.Semaphore(_CLIENTS)
    for body in bodies:
        await semaphore.acquire()
        group.create_task(_post(service, body, seen)).add_done_callback(lambda _: semaphore.release())
        await asyncio.sleep(seconds / len(bodies))


async def _post(service: Service, body: dict[str, Any], seen: Seen) -> None:
    """Post with an Idempotency-Key, and repeat while the connection breaks or the service is unavailable."""
    headers = {"idempotency-key": hashlib.sha256(body["prompt"].encode()).hexdigest()}
    seen.asked_at[body["prompt"]] = utc_now()
    while body["prompt"] not in seen.posted:
        try:
            answer = await service.api.post("/v1/tasks", json=body, headers=headers)
        except httpx.TransportError:
            await asyncio.sleep(0.3)
            continue
        if answer.status_code == httpx.codes.ACCEPTED:
            seen.posted[body["prompt"]] = answer.json()["id"]
        elif answer.status_code in {httpx.codes.CONFLICT, httpx.codes.SERVICE_UNAVAILABLE}:
            await asyncio.sleep(0.3)
        else:
            answer.raise_for_status()


async def _all_final(service: Service) -> None:
    while True:
        try:
            if not any([await _some(service.api, status) for status in _OPEN]):
                return
        except httpx.HTTPError:
            pass  # the service or the database was killed
        await asyncio.sleep(0.3)


async def _some(api: httpx.AsyncClient, status: str) -> bool:
    answer = await api.get("/v1/tasks", params={"status": status, "limit": 1})
    return bool(answer.raise_for_status().json()["tasks"])


async def _look(api: httpx.AsyncClient, seen: Seen) -> None:
    """Read all tasks, with their images or timelines."""
    cursor: dict[str, str] = {}
    while True:
        page = (await api.get("/v1/tasks", params={"limit": _PAGE, **cursor})).raise_for_status().json()
        seen.tasks += page["tasks"]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    for task in seen.tasks:
        if task["status"] == "stored":
            image = await api.get(f"/v1/tasks/{task['id']}/image")
            seen.images[task["id"]] = hashlib.sha256(image.content).hexdigest()
        else:
            timeline = await api.get(f"/v1/tasks/{task['id']}/timeline")
            seen.timelines[task["id"]] = timeline.raise_for_status().json()["entries"]
