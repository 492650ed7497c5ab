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
from typing import Any

import httpx

from tests.pictures import in_base64, picture
from tests.proof.storm_processes import ADMIN_KEY, Service, free_port, playing_twin

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
    "near_expiry_s": 15,
    "refused_link": 0.02,
}
# Above ours of 24 and 6: a twin that refuses the 25th task could never tell that we sent it.
_SLOTS = {"slots": {"flux-kontext-pro": 100, "flux-kontext-max": 100}, "account_slots": 200}
_RULES = {**_SLOTS, "megapixels": 0.02, "credits": 1_000_000}
_READY_AFTER_S = 0.5
_OPEN = ("queued", "submitting", "submitted", "ready")
_PAGE = 100


@dataclass(frozen=True, slots=True)
class Storm:
    """What to go through. `hold_s` is just longer than a provider goes on calling (36 s), so that a run ends soon."""

    tasks: int = 2000
    seed: int = 1
    hold_s: int = 40
    lifetime_s: tuple[float, float] = (3, 8)  # of a service that is up, before it is killed
    posts_per_s: float = 25

    @property
    def bound_s(self) -> float:
        """A run that takes longer has failed."""
        return 180 + 0.4 * self.tasks


@dataclass(slots=True)
class Seen:
    """What both sides say when the storm is over."""

    kills: list[datetime] = field(default_factory=list)
    ended_by_itself: int = 0
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
    twins_port, port = free_port(rng), free_port(rng)
    twin_url, url = f"http://127.0.0.1:{twins_port}", f"http://127.0.0.1:{port}"
    seen, began = Seen(), time.monotonic()
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    async with (
        playing_twin(twins_port, storm.seed, _READY_AFTER_S, folder / "twin.log") as twin,
        httpx.AsyncClient(base_url=url, headers=headers, timeout=30, trust_env=False) as api,
    ):
        (await twin.put("/twin/rules", json=_RULES)).raise_for_status()
        (await twin.put("/twin/faults", json={**FAULTS, "seed": storm.seed})).raise_for_status()
        service = Service(_environment(storm, folder, port, twin_url), folder / "service.log", api)
        await _endure(storm, service, rng, seen)
        seen.seconds = time.monotonic() - began
        async with service.alive():
            await _look(api, seen)
        seen.ledger = (await twin.get("/twin/ledger")).json()
    seen.kills, seen.ended_by_itself, seen.complaints = service.kills, service.ended_by_itself, service.complaints()
    return seen


def _environment(storm: Storm, folder: Path, port: int, twin_url: str) -> dict[str, str]:
    return {
        "FLUXHOOK_DATA_DIR": str(folder / "data"),
        "FLUXHOOK_HOST": "127.0.0.1",
        "FLUXHOOK_PORT": str(port),
        "FLUXHOOK_PUBLIC_URL": f"http://127.0.0.1:{port}",
        "FLUXHOOK_BFL_BASE_URL": twin_url,
        "FLUXHOOK_BFL_API_KEY": "a-provider-key",
        "FLUXHOOK_ADMIN_KEY": ADMIN_KEY,
        "FLUXHOOK_HOLD_SECONDS": str(storm.hold_s),
    }


async def _endure(storm: Storm, service: Service, rng: random.Random, seen: Seen) -> None:
    """Post everything and wait for its end, within the bound; what is not final then is for the judge."""
    calm = asyncio.Event()
    bodies = [_body(storm, number, rng) for number in range(storm.tasks)]
    seen.asked = [body["prompt"] for body in bodies]
    living = asyncio.create_task(service.live_and_die(random.Random(storm.seed), storm.lifetime_s, calm))  # noqa: S311 - see above
    try:
        async with asyncio.timeout(storm.bound_s):
            await _post_all(service.client, bodies, storm.posts_per_s, seen.posted)
            await _all_final(service.client)
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


async def _post_all(api: httpx.AsyncClient, bodies: list[dict[str, Any]], per_s: float, posted: dict[str, str]) -> None:
    async with asyncio.TaskGroup() as group:
        for body in bodies:
            group.create_task(_post(api, body, posted))
            await asyncio.sleep(1 / per_s)


async def _post(api: httpx.AsyncClient, body: dict[str, Any], posted: dict[str, str]) -> None:
    """As a careful client does: the same key until there is an answer, however often the connection breaks."""
    headers = {"idempotency-key": hashlib.sha256(body["prompt"].encode()).hexdigest()}
    while body["prompt"] not in posted:
        try:
            answer = await api.post("/v1/tasks", json=body, headers=headers)
        except httpx.TransportError:
            await asyncio.sleep(0.3)
            continue
        if answer.status_code == httpx.codes.ACCEPTED:
            posted[body["prompt"]] = answer.json()["id"]
        elif answer.status_code in {httpx.codes.CONFLICT, httpx.codes.SERVICE_UNAVAILABLE}:
            await asyncio.sleep(0.3)
        else:
            answer.raise_for_status()


async def _all_final(api: httpx.AsyncClient) -> None:
    while True:
        try:
            if not any([await _some(api, status) for status in _OPEN]):
                return
        except httpx.HTTPError:
            pass  # it was killed meanwhile
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
