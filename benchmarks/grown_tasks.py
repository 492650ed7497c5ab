"""Whole tasks on a small and on a large database, each with a queue, in turns.

The pages of the overview and of the tasks are read meanwhile, and the retention looks for what is due.
"""

import asyncio
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from app.db.engine.database import open_database
from benchmarks import processes
from benchmarks.applications import application
from benchmarks.databases import server_process
from benchmarks.drive import Running
from benchmarks.figures import percentile
from benchmarks.growing import Figures
from benchmarks.ours import ADMIN_KEY, Ours, execute
from benchmarks.processes import Process
from benchmarks.report import WHOLE_TASK
from benchmarks.stage import Stage
from benchmarks.waiting import MODEL, OTHER_MODEL, crowds, wait
from benchmarks.whole_task import (
    BUSY_S,
    LONE_S,
    MEGAPIXELS,
    SLOTS,
    WARM,
    Tried,
    at_once,
    control,
    cpu_seconds_of,
    one_at_a_time,
    ready_after,
    scaled,
    slots_busy,
)
from benchmarks.wire import request

WAITING_SHARE = 100  # finished tasks for each one that waits
_RETENTION_DAYS = 180  # as old as the oldest finished task, so that a few are due at any time
_PAGES = ("/", "/tasks")
_READS = 2.0  # pages read per second, in turn
_MAX_READ_S = 3600.0  # the reading is stopped long before
_ACCOUNTS = """
[[accounts]]
name = "measured"
kind = "bfl"
base_url = "{twin}"
key_env = "FLUXHOOK_BFL_API_KEY"
slots = {slots}
slots_by_model = {{ {model} = {slots} }}
models = ["{model}"]

[[accounts]]
name = "full"
kind = "bfl"
base_url = "{twin}"
key_env = "BENCH_OTHER_KEY"
slots = 1
slots_by_model = {{ {other} = 1 }}
models = ["{other}"]
"""


def whole_tasks(stage: Stage, urls: Sequence[str], waiting: Sequence[int]) -> tuple[dict[str, Figures], ...]:
    """Measure whole tasks on each of these databases, after adding tasks that wait. Return figures by name for each."""
    for url, count in zip(urls, waiting, strict=True):
        asyncio.run(_add_waiting(url, stage.ours.keys.newest, count))
    folder = stage.ours.folder / "grown_tasks"
    folder.mkdir()
    with processes.running(["benchmarks.servers", "twin", str(LONE_S), str(MEGAPIXELS)], folder / "twin.log") as twin:
        twin.await_answer()
        with ExitStack() as stack:
            tried = [
                stack.enter_context(_serving(stage, folder / str(number), url, twin)) for number, url in enumerate(urls)
            ]
            asyncio.run(_in_turns(stage, twin, tried))
    return tuple(_figures(each) for each in tried)


async def _add_waiting(url: str, signing_key_id: str, count: int) -> None:
    async with open_database(url) as database:
        await wait(database, signing_key_id, crowds("acct:measured", "acct:full"), count)
    if not url.startswith("sqlite:"):
        await execute(url, "VACUUM ANALYZE", "CHECKPOINT")


@contextmanager
def _serving(stage: Stage, folder: Path, url: str, twin: Process) -> Generator[Tried]:
    """Run a service with its worker until the block ends."""
    folder.mkdir()
    config = folder / "fluxhook.toml"
    slots = SLOTS + 1  # one of them is taken for good
    config.write_text(
        _ACCOUNTS.format(twin=f"http://127.0.0.1:{twin.port}", slots=slots, model=MODEL, other=OTHER_MODEL)
    )
    env = {"FLUXHOOK_CONFIG": str(config), "FLUXHOOK_EGRESS_ALLOW": "127.0.0.0/8", "BENCH_OTHER_KEY": "another-key"}
    env |= {f"FLUXHOOK_LIMIT_{name}": "1000000" for name in ("POSTS_PER_MINUTE", "QUEUED", "DELIVERIES")}
    env |= {f"FLUXHOOK_{data}_DAYS": str(_RETENTION_DAYS) for data in ("IMAGE", "INPUT", "EVIDENCE", "TASK")}
    service = Ours("task", folder, url, stage.ours.signing_key_id, env=env, arguments=("serve",))
    with service.running():
        service.await_answer()
        server = None if url.startswith("sqlite:") else asyncio.run(server_process(url))
        headers = {"authorization": f"Bearer {ADMIN_KEY}"}
        yield Tried("ours", service.port, lambda: cpu_seconds_of(service.pid, server), headers)


async def _in_turns(stage: Stage, twin: Process, tried: Sequence[Tried]) -> None:
    async with application() as app, control(twin) as twin_control:
        for round_number in range(stage.rounds):
            for each in tried if round_number % 2 else reversed(tried):
                await ready_after(twin_control, LONE_S)
                with _pages_read(stage, each.port):
                    await one_at_a_time(each, app, WARM if round_number == 0 else 2, {}, measured=False)
                    await one_at_a_time(each, app, scaled(stage, 16), {})
                    await slots_busy(each, app, twin_control, SLOTS, BUSY_S, waves=scaled(stage, 2))
                    await at_once(each, app, scaled(stage, 24))


@contextmanager
def _pages_read(stage: Stage, port: int) -> Generator[Running]:
    """Read the pages until the block ends, as a signed-in person does."""
    cookie = _signed_in(port)
    reads = [request("GET", path, {"cookie": cookie, "accept": "text/html"}) for path in _PAGES]
    with stage.drive.start(port, reads, _MAX_READ_S, connections=2, rate=_READS, repeat=True) as running:
        running.await_first()
        yield running
        outcome = running.finish()
        if outcome.answered != outcome.counts[200]:
            raise RuntimeError(f"the pages could not be read: {outcome.counts}")


def _signed_in(port: int) -> str:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as client:
        answer = client.post("/session", data={"key": ADMIN_KEY}, headers={"origin": f"http://127.0.0.1:{port}"})
        name, value = next(iter(answer.cookies.items()))
        return f"{name}={value}"


def _figures(tried: Tried) -> dict[str, Figures]:
    """Return each figure with the median and the 99th percentile; of a few values, the largest."""
    seen: Mapping[str, Sequence[float]] = tried.seen
    shown = {
        "added": seen["added"],
        "CPU, one at a time": seen["cpu"],
        "CPU, all slots busy": seen["cpu_busy"],
        "post, 24 at once": seen["post"],
        "interval with 24 slots of 3 s": [1000 / rate for rate in seen["tasks_per_s"]],
    }
    for name, title in (("cpu_database", "CPU of the database, one at a time"),):
        if name in seen:
            shown[title] = seen[name]
    return {
        f"{WHOLE_TASK}{name}": Figures(percentile(values, 0.5), percentile(values, 0.99))
        for name, values in shown.items()
    }
