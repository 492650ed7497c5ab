"""`kill -9` of a real service, while a gate blocks one of its exchanges with the provider."""

import asyncio
import logging
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from app.clock import utc_now
from app.twin import Rules, Twin, create_twin_app
from tests.proof.crash_gates import Gate, GatedCalls, GatedProvider, locked
from tests.proof.crash_injected import UNKNOWN, Run
from tests.proof.test_crash import service
from tests.sockets import free_address, listening, serving, until
from tests.world import ADMIN_KEY

_AT_A_TIME = 3  # limits the load of starting services
_LONGEST_S = 300  # the first poll after a lost answer comes after 65 s
_GATE_S = 120
_SETTLING_S = 0.3  # time to reach the blocked commit


@dataclass(frozen=True, slots=True)
class Kill:
    """The place of the gate, whether commits are blocked when it opens, and the expected result."""

    step: str
    place: str
    gate: str
    blocked: bool = False
    callback_requested: bool = True
    ends: str = "stored"
    charges: int = 1


KILLS = (
    Kill(
        "dispatch",
        "while the submit request is in transit, before the provider receives it",
        "submit: request",
        ends=UNKNOWN,
        charges=0,
    ),
    Kill("dispatch", "after the provider accepts the task, before it responds", "submit: answer"),
    Kill(
        "dispatch",
        "after the provider accepts the task, before it responds; no callbacks",
        "submit: answer",
        callback_requested=False,
        ends=UNKNOWN,
    ),
    Kill("dispatch", "after the provider responds, before the commit", "submit: answer", blocked=True),
    Kill("idle", "after the task is submitted, before the callback arrives", "callback: request"),
    Kill("callback", "after half of the callback is received", "callback: body"),
    Kill("callback", "after the callback is received, before the commit", "callback: request", blocked=True),
    Kill("callback", "after the callback is committed, before the provider reads the response", "callback: answer"),
    Kill(
        "reconcile",
        "while a status request waits for its response; no callbacks",
        "status: answer",
        callback_requested=False,
    ),
    Kill("collect", "after half of the image is downloaded", "download: body"),
    Kill("collect", "after the image is written to disk, before the commit", "download: request", blocked=True),
)


async def kill_all() -> list[Run]:
    """Run all kills, a few at a time."""
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
    semaphore = asyncio.Semaphore(_AT_A_TIME)

    async def in_turn(kill: Kill) -> Run:
        async with semaphore:
            return await kill_at(kill)

    return await asyncio.gather(*map(in_turn, KILLS))


async def kill_at(kill: Kill) -> Run:
    """Kill the service while its exchange waits at the gate, restart it, and return how the task ends."""
    gate = Gate(kill.gate)
    their_socket, their_address = listening()
    our_address = free_address()
    rules = Rules(megapixels=0.02, ready_after=timedelta(seconds=0.5), retries=(timedelta(seconds=0.5),) * 200)
    calls = httpx.AsyncClient(transport=GatedCalls(gate))
    twin = Twin(rules, now=utc_now, send=calls)
    provider = GatedProvider(create_twin_app(twin, owned=calls), gate, loses=kill.charges == 0)
    with TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        env = _environment(data, our_address, their_address, kill)
        async with serving(provider, their_socket):
            try:
                location = await _killed(kill, gate, data, env)
                async with service(env) as api:
                    task = await _final(api, location)
            except TimeoutError:
                task = {"status": "not final in time"}
    return _run(kill, task, twin.ledger())


async def _killed(kill: Kill, gate: Gate, data: Path, env: dict[str, str]) -> str:
    """Post a task, kill the service at the gate, and return the location of the task."""
    with ExitStack() as after_death:
        async with service(env) as api:
            posted = await api.post("/v1/tasks", json={"prompt": "a red fox"})
            async with asyncio.timeout(_GATE_S):
                await gate.reached.wait()
            if kill.blocked:
                after_death.enter_context(locked(data / "fluxhook.db"))
                gate.opened.set()
                await _uncommitted(kill, data)
        gate.opened.set()
    return str(posted.headers["location"])


async def _uncommitted(kill: Kill, data: Path) -> None:
    """Wait until the step has done everything before its commit."""
    if kill.step != "collect":
        await asyncio.sleep(_SETTLING_S)
        return

    async def on_disk() -> bool:
        return any(path.suffix == ".png" for path in (data / "images").rglob("results/*/*"))

    await until(on_disk)


async def _final(api: httpx.AsyncClient, location: str) -> dict[str, Any]:
    async with asyncio.timeout(_LONGEST_S):
        while True:
            task: dict[str, Any] = (await api.get(location, headers={"prefer": "wait=20"})).json()
            if task["status"] in {"stored", "failed", "cancelled"}:
                return task


def _environment(data: Path, our_address: str, their_address: str, kill: Kill) -> dict[str, str]:
    return {
        "FLUXHOOK_DATA_DIR": str(data),
        "FLUXHOOK_HOST": "127.0.0.1",
        "FLUXHOOK_PORT": our_address.rpartition(":")[2],
        "FLUXHOOK_BFL_BASE_URL": their_address,
        "FLUXHOOK_BFL_API_KEY": "a-provider-key",
        "FLUXHOOK_ADMIN_KEY": ADMIN_KEY,
        "FLUXHOOK_PUBLIC_URL": our_address if kill.callback_requested else "",
        "FLUXHOOK_HOLD_SECONDS": "60",  # the default is a quarter of an hour
    }


def _run(kill: Kill, task: dict[str, Any], ledger: dict[str, Any]) -> Run:
    outcome = f"failed: {task['failure']['code']}" if task["status"] == "failed" else task["status"]
    charges = sum(entry["cost"] > 0 for entry in ledger["tasks"])
    wrong = (outcome, charges) != (kill.ends, kill.charges)
    if outcome == "stored":
        wrong |= task["image"]["sha256"] not in {entry["sha256"] for entry in ledger["tasks"]}
    return Run(
        scenario="kill",
        kind="kill -9",
        step=kill.step,
        place=kill.place,
        outcome=outcome,
        charges=charges,
        by_design=kill.ends == UNKNOWN,
        differs=f"{outcome} with {charges} charges, expected {kill.ends} with {kill.charges}" if wrong else None,
    )
