"""Whole tasks, from the post to the application's webhook: the service and the floor in turns, on one twin.

The provider's own time is subtracted, so `added` is what a gateway adds to a task.
"""

import asyncio
import base64
import math
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import mean
from time import perf_counter

import httpx

from benchmarks import processes
from benchmarks.applications import Application, Client, application
from benchmarks.databases import server_process
from benchmarks.figures import median, percentile
from benchmarks.ours import ADMIN_KEY, Ours
from benchmarks.processes import Process
from benchmarks.ready_twin import photo
from benchmarks.stage import Stage

SLOTS = 24  # of an account
MANY_SLOTS = 240
LONE_S, BUSY_S, _SHORT_S = 0.2, 3.0, 0.5  # the provider's own times
MEGAPIXELS = 0.1  # of a result
_LARGE_MEGAPIXELS = 1.0  # of a result and of its input image
WARM = 8  # tasks before the first measurement of a process
_ACCOUNT = """
[[accounts]]
name = "many"
kind = "bfl"
base_url = "{twin}"
key_env = "FLUXHOOK_BFL_API_KEY"
slots = {slots}
slots_by_model = {{ flux-kontext-pro = {slots} }}
"""


@dataclass
class Tried:
    """One server of tasks under measurement, with what was seen of it over all rounds."""

    name: str
    port: int
    cpu: Callable[[], Mapping[str, float]]  # CPU seconds so far, by process
    headers: Mapping[str, str] = field(default_factory=dict)
    seen: dict[str, list[float]] = field(default_factory=dict)

    def add(self, figure: str, *values: float) -> None:
        self.seen.setdefault(figure, []).extend(values)


def task(stage: Stage) -> dict[str, float]:
    """Measure whole tasks one at a time, with all slots busy, with many slots, and with large images."""
    folder = stage.ours.folder / "task"
    folder.mkdir()
    figures: dict[str, float] = {}
    with _played(stage, folder / "small", SLOTS, MEGAPIXELS) as (twin, ours, floor):
        asyncio.run(_small(stage, twin, ours, floor))
        figures |= _compared(ours, floor)
    with _played(stage, folder / "many", MANY_SLOTS, MEGAPIXELS) as (twin, ours, floor):
        asyncio.run(_many(stage, twin, ours))
        figures |= {"many_slot_use": median(ours.seen["slot_use"]), "many_cpu_ms": mean(ours.seen["cpu_busy"])}
    with _played(stage, folder / "large", SLOTS, _LARGE_MEGAPIXELS) as (twin, ours, floor):
        asyncio.run(_large(stage, twin, ours, floor))
        figures |= {f"large_{name}": value for name, value in _compared(ours, floor).items()}
    return figures


async def _small(stage: Stage, twin: Process, ours: Tried, floor: Tried) -> None:
    async with application() as app, control(twin) as twin_control:
        for round_number in range(stage.rounds):
            for tried in (ours, floor) if round_number % 2 else (floor, ours):
                await ready_after(twin_control, LONE_S)
                await one_at_a_time(tried, app, WARM if round_number == 0 else 2, {}, measured=False)
                await one_at_a_time(tried, app, scaled(stage, 16), {})
                await slots_busy(tried, app, twin_control, SLOTS, BUSY_S, waves=scaled(stage, 2))
                if tried is ours:  # the floor has no queue
                    await slots_busy(tried, app, twin_control, SLOTS, _SHORT_S, waves=scaled(stage, 6), name="short_")
                await at_once(tried, app, scaled(stage, 40))


async def _many(stage: Stage, twin: Process, ours: Tried) -> None:
    async with application() as app, control(twin) as twin_control:
        await ready_after(twin_control, LONE_S)
        await one_at_a_time(ours, app, WARM, {}, measured=False)
        await slots_busy(ours, app, twin_control, MANY_SLOTS, BUSY_S, waves=scaled(stage, 2))


async def _large(stage: Stage, twin: Process, ours: Tried, floor: Tried) -> None:
    picture = {"input_image": base64.b64encode(photo(_LARGE_MEGAPIXELS)).decode()}
    async with application() as app, control(twin) as twin_control:
        await ready_after(twin_control, LONE_S)
        for round_number in range(stage.rounds):
            for tried in (ours, floor) if round_number % 2 else (floor, ours):
                await one_at_a_time(tried, app, 2, picture, measured=False)
                await one_at_a_time(tried, app, scaled(stage, 8), picture)


async def one_at_a_time(
    tried: Tried, app: Application, count: int, more: Mapping[str, str], *, measured: bool = True
) -> None:
    client = Client(tried.port, tried.headers)
    before = tried.cpu()
    added = [await _added(client, app, number, more) for number in range(count)]
    client.close()
    if measured:
        tried.add("added", *added)
        _add_cpu(tried, "cpu", before, count)


async def _added(client: Client, app: Application, number: int, more: Mapping[str, str]) -> float:
    """Run one task. Return the milliseconds from its post to its webhook, without the provider's time."""
    began = perf_counter()
    task_id = await client.post({"prompt": f"picture {number}", "webhook_url": app.url, **more})
    return 1000 * (await app.webhook_of(task_id) - began - LONE_S)


async def slots_busy(
    tried: Tried,
    app: Application,
    twin_control: httpx.AsyncClient,
    slots: int,
    each_s: float,
    *,
    waves: int,
    name: str = "",
) -> None:
    """Keep all slots busy for `waves` times the duration of a task; the floor gets a post when a task ends."""
    (await twin_control.post("/twin/reset")).raise_for_status()  # of its rules too
    await ready_after(twin_control, each_s)
    before, numbers = tried.cpu(), iter(range(slots * waves))
    waiting = slots * (1 if tried.name == "floor" else 2)

    async def client_loop() -> None:
        client = Client(tried.port, tried.headers)
        for number in numbers:
            await app.webhook_of(await client.post({"prompt": f"picture {number}", "webhook_url": app.url}))
        client.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(waiting):
            group.create_task(client_loop())
    _add_cpu(tried, f"{name}cpu_busy", before, slots * waves)
    entries = (await twin_control.get("/twin/ledger")).raise_for_status().json()["tasks"]
    ends = [datetime.fromisoformat(entry["ready_at"]).timestamp() for entry in entries]
    took_s = max(ends) - min(ends) + each_s
    tried.add(f"{name}slot_use", len(ends) * each_s / (slots * took_s))
    tried.add(f"{name}tasks_per_s", len(ends) / took_s)


async def at_once(tried: Tried, app: Application, count: int) -> None:
    """Post with as many clients as an account has slots, each as soon as its post is answered."""
    numbers, posted = iter(range(count * SLOTS // 8)), []

    async def client_loop() -> None:
        client = Client(tried.port, tried.headers)
        for number in numbers:
            began = perf_counter()
            posted.append(await client.post({"prompt": f"picture {number}", "webhook_url": app.url}))
            tried.add("post", 1000 * (perf_counter() - began))
        client.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(SLOTS):
            group.create_task(client_loop())
    for task_id in posted:
        await app.webhook_of(task_id)


def _compared(ours: Tried, floor: Tried) -> dict[str, float]:
    """Return the figures of both, ratios first."""
    figures: dict[str, float] = {}
    shares = {"added_p50": ("added", 0.5), "added_p95": ("added", 0.95), "post_p50": ("post", 0.5)}
    for figure, (name, share) in shares.items():
        if name in ours.seen:
            figures |= _pair(figure, percentile(ours.seen[name], share), percentile(floor.seen[name], share))
    for name in ("cpu", "cpu_busy"):
        if name in ours.seen:
            figures |= _pair(name, mean(ours.seen[name]), mean(floor.seen[name]))
        if f"{name}_database" in ours.seen:
            figures[f"{name}_database_ms"] = mean(ours.seen[f"{name}_database"])
    for name in ("slot_use", "short_tasks_per_s"):
        if name in ours.seen:
            figures[name] = median(ours.seen[name])
    return figures


def _pair(figure: str, mine: float, least: float) -> dict[str, float]:
    """Return the ratio to the floor, and both values in milliseconds. A very short run may see no CPU time."""
    ratio = mine / least if least else math.nan
    return {f"{figure}_times_floor": ratio, f"{figure}_ms": mine, f"floor_{figure}_ms": least}


def _add_cpu(tried: Tried, name: str, before: Mapping[str, float], count: int) -> None:
    """Add the CPU milliseconds of each task: of the process, and of the database's own processes."""
    for process, seconds in tried.cpu().items():
        figure = name if process == "own" else f"{name}_{process}"
        tried.add(figure, 1000 * (seconds - before[process]) / count)


async def ready_after(twin_control: httpx.AsyncClient, seconds: float) -> None:
    (await twin_control.put("/twin/rules", json={"ready_after_s": seconds})).raise_for_status()


def scaled(stage: Stage, usual: int) -> int:
    """Scale a number of tasks by the duration of a measurement; 3 s is the usual one."""
    return max(1, round(usual * stage.seconds / 3))


@asynccontextmanager
async def control(twin: Process) -> AsyncGenerator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{twin.port}", trust_env=False, timeout=60) as client:
        yield client


@contextmanager
def _played(stage: Stage, folder: Path, slots: int, megapixels: float) -> Generator[tuple[Process, Tried, Tried]]:
    """Run twin, service and floor until the block ends."""
    folder.mkdir()
    twin_arguments = ["benchmarks.servers", "twin", str(LONE_S), str(megapixels)]
    with processes.running(twin_arguments, folder / "twin.log") as twin, stage.another() as url:
        twin.await_answer()  # each port is in use before the next one is chosen
        provider = f"http://127.0.0.1:{twin.port}"
        config = folder / "fluxhook.toml"
        config.write_text(_ACCOUNT.format(twin=provider, slots=slots))
        env = {"FLUXHOOK_CONFIG": str(config), "FLUXHOOK_EGRESS_ALLOW": "127.0.0.0/8"}
        env |= {f"FLUXHOOK_LIMIT_{name}": "100000" for name in ("POSTS_PER_MINUTE", "QUEUED", "DELIVERIES")}
        floor_arguments = ["benchmarks.servers", "floor", str(folder), provider]
        with processes.running(floor_arguments, folder / "floor.log") as floor:
            floor.await_answer("/")
            service = Ours("task", folder, url, stage.ours.signing_key_id, env=env, arguments=("serve",))
            with service.running():
                service.await_answer()
                server = None if url.startswith("sqlite:") else asyncio.run(server_process(url))
                headers = {"authorization": f"Bearer {ADMIN_KEY}"}
                yield (
                    twin,
                    Tried("ours", service.port, lambda: cpu_seconds_of(service.pid, server), headers),
                    Tried("floor", floor.port, lambda: {"own": processes.cpu_seconds(floor.pid)}),
                )


def cpu_seconds_of(pid: int, server: int | None) -> dict[str, float]:
    own = {"own": processes.cpu_seconds(pid)}
    return own if server is None else {**own, "database": processes.cpu_seconds_with_children(server)}
