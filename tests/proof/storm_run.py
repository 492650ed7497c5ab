"""One storm: tasks are posted while everything goes wrong, until all are final or the time is over."""

import asyncio
import hashlib
import random  # noqa: TID251 - a storm is repeated by its seed
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import httpx

from app.jobs import LEASE
from tests.pictures import in_base64, picture
from tests.proof.formation import Formation, Service, form
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
    # A link that dies soon after the image is ready, and one that is refused when it is used first.
    "expired_link": 0.02,
    "refused_link": 0.02,
}
# Above ours of 24 and 6: a twin that refuses the 25th task could never tell that we sent it.
_SLOTS = {"slots": {"flux-kontext-pro": 100, "flux-kontext-max": 100}, "account_slots": 200}
_RULES = {**_SLOTS, "megapixels": 0.02, "credits": 1_000_000}
_READY_AFTER_S = 0.5
_OPEN = ("queued", "submitting", "submitted", "ready")
_PAGE = 100
_CLIENTS = 40  # each has one post under way: a slow service is asked for less


@dataclass(frozen=True, slots=True)
class Storm:
    """What to go through. `hold_s` is just longer than a provider goes on calling (36 s), so that a run ends soon."""

    tasks: int = 2000
    seed: int = 1
    hold_s: int = 40
    lifetime_s: tuple[float, float] = (3, 8)  # until the next kill
    most_kills: int | None = None
    posts_per_s: float = 25
    database: Literal["sqlite", "postgres"] = "sqlite"
    workers: int = 1  # one is an API too; more have two APIs beside them

    @property
    def bound_s(self) -> float:
        """A run that takes longer has failed."""
        return 180 + 0.4 * self.tasks

    @property
    def formation(self) -> Formation:
        if self.workers == 1:
            return Formation(self.database, hold_s=self.hold_s)
        return Formation(self.database, apis=2, workers=self.workers, hold_s=self.hold_s)

    @property
    def faults(self) -> dict[str, float]:
        # A link that dies sooner than a worker's lease, dies with the worker.
        near_expiry_s = 15 + (LEASE.total_seconds() if self.database == "postgres" else 0)
        return {**FAULTS, "near_expiry_s": near_expiry_s, "seed": self.seed}


@dataclass(slots=True)
class Seen:
    """What both sides say when the storm is over."""

    kills: list[datetime] = field(default_factory=list)
    database_kills: list[datetime] = field(default_factory=list)
    ended_by_itself: int = 0
    turned_away: int = 0
    complaints: Counter[str] = field(default_factory=Counter)
    asked: list[str] = field(default_factory=list)  # all prompts
    posted: dict[str, str] = field(default_factory=dict)  # prompt to the id that the client was given
    tasks: list[dict[str, Any]] = field(default_factory=list)
    timelines: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # of what is not stored
    images: dict[str, str] = field(default_factory=dict)  # task id to the digest of what we hand out
    ledger: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0


async def go_through(storm: Storm, folder: Path) -> Seen:
    rng = random.Random(storm.seed)  # noqa: S311 - a storm is repeated by its seed
    twins_port = free_port(rng)
    seen, began = Seen(), time.monotonic()
    async with (
        playing_twin(twins_port, storm.seed, _READY_AFTER_S, folder / "twin.log") as twin,
        form(storm.formation, folder, f"http://127.0.0.1:{twins_port}", rng) as service,
    ):
        (await twin.put("/twin/rules", json=_RULES)).raise_for_status()
        (await twin.put("/twin/faults", json=storm.faults)).raise_for_status()
        fleet = service.fleet
        async with fleet.alive():
            await _endure(storm, service, rng, seen)
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


async def _endure(storm: Storm, service: Service, rng: random.Random, seen: Seen) -> None:
    """Post everything and wait for its end, within the bound; what is not final then is for the judge."""
    calm = asyncio.Event()
    bodies = [_body(storm, number, rng) for number in range(storm.tasks)]
    seen.asked = [body["prompt"] for body in bodies]
    kills = random.Random(storm.seed)  # noqa: S311 - see above
    living = asyncio.create_task(service.fleet.live_and_die(kills, storm.lifetime_s, calm, storm.most_kills))
    try:
        async with asyncio.timeout(storm.bound_s):
            await _post_all(service, bodies, storm.posts_per_s, seen.posted)
            await _all_final(service)
    except TimeoutError:
        pass
    finally:
        calm.set()
        await living


def _body(storm: Storm, number: int, rng: random.Random) -> dict[str, Any]:
    """A task: some want the model with fewer slots, some bring an image, some the provider cannot do."""
    ending = rng.choices(("", ", forbidden", ", fail"), (98, 1, 1))[0]
    body = {"prompt": f"storm {storm.seed}, picture {number}{ending}"}
    body["model"] = rng.choices(("flux-kontext-pro", "flux-kontext-max"), (85, 15))[0]
    if rng.random() < 0.05:
        body["input_image"] = in_base64(picture(64, 48))
    return body


async def _post_all(service: Service, bodies: list[dict[str, Any]], per_s: float, posted: dict[str, str]) -> None:
    turns = asyncio.Semaphore(_CLIENTS)
    async with asyncio.TaskGroup() as group:
        for body in bodies:
            await turns.acquire()
            group.create_task(_post(service, body, posted)).add_done_callback(lambda _: turns.release())
            await asyncio.sleep(1 / per_s)


async def _post(service: Service, body: dict[str, Any], posted: dict[str, str]) -> None:
    """As a careful client does: the same key until there is an answer, however often the connection breaks."""
    headers = {"idempotency-key": hashlib.sha256(body["prompt"].encode()).hexdigest()}
    while body["prompt"] not in posted:
        try:
            answer = await service.api.post("/v1/tasks", json=body, headers=headers)
        except httpx.TransportError:
            await asyncio.sleep(0.3)
            continue
        if answer.status_code == httpx.codes.ACCEPTED:
            posted[body["prompt"]] = answer.json()["id"]
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
            pass  # it was killed meanwhile, or the database was
        await asyncio.sleep(0.3)


async def _some(api: httpx.AsyncClient, status: str) -> bool:
    answer = await api.get("/v1/tasks", params={"status": status, "limit": 1})
    return bool(answer.raise_for_status().json()["tasks"])


async def _look(api: httpx.AsyncClient, seen: Seen) -> None:
    """Read all tasks, and the very bytes of their images."""
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
