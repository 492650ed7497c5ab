"""Bringing many large results home at once: the service with its worker, and the provider's twin, for real."""

import asyncio
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import select

from app.bench import processes
from app.bench.figures import percentile
from app.bench.ours import ADMIN_KEY, Ours
from app.bench.processes import Process, memory_mb
from app.bench.stage import Stage
from app.bench.wire import request
from app.record import Connection
from app.record.database import open_database
from app.record.results import results
from app.record.submissions import submissions
from app.record.tasks import tasks

_TASKS = 24  # as many as the provider has in hand at once
_MEGAPIXELS = 4.0  # the most that the twin paints
_READY_AFTER_S = 3
_MOST_S = 120.0
_TWINS_OWN = 20  # submits to the twin alone: below its slots


def collect(stage: Stage) -> dict[str, float]:
    """24 images at once; the twin paints each when it is asked for, on the same processors, which is in the time."""
    folder = stage.ours.folder / "collect"
    folder.mkdir()
    with _twin(folder) as twin, stage.another() as url, _service(stage, folder, url, twin) as service:
        own = stage.drive.run(twin.port, twin.pid, [_order()] * _TWINS_OWN, _MOST_S, connections=1)
        Path(f"/proc/{service.pid}/clear_refs").write_text("5")
        before = memory_mb(service.pid)
        _post_and_wait(service)
        peak = memory_mb(service.pid, "VmHWM")
        rows = asyncio.run(_rows(url))
    answered = [_ms(row["answered_at"] - row["asked_at"]) for row in rows if row["answered_at"]]
    took = max(row["stored_at"] for row in rows) - min(row["ready_at"] for row in rows)
    return {
        "collect_s": took.total_seconds(),
        "collect_image_mb": sum(row["bytes"] for row in rows) / len(rows) / 2**20,
        "collect_peak_mb": peak - before,
        "dispatch_p50_ms": percentile(answered, 0.5),
        "dispatch_p99_ms": percentile(answered, 0.99),
        "twin_answer_p50_ms": own.ms(0.5),
    }


@contextmanager
def _twin(folder: Path) -> Generator[Process]:
    arguments = ["app", "twin", "--ready-after", str(_READY_AFTER_S), "--port"]
    with processes.running(arguments, folder / "twin.log") as twin:
        twin.await_answer()
        rules = {"megapixels": _MEGAPIXELS, "default_format": "png"}
        httpx.put(f"http://127.0.0.1:{twin.port}/twin/rules", json=rules, trust_env=False).raise_for_status()
        yield twin


@contextmanager
def _service(stage: Stage, folder: Path, url: str, twin: Process) -> Generator[Ours]:
    env = {"FLUXHOOK_BFL_BASE_URL": f"http://127.0.0.1:{twin.port}"}
    with Ours("collect", folder, url, stage.ours.ring_key, env=env, arguments=("serve",)).running() as service:
        service.await_answer()
        yield service


def _post_and_wait(service: Ours) -> None:
    base, headers = f"http://127.0.0.1:{service.port}", {"authorization": f"Bearer {ADMIN_KEY}"}
    until = time.monotonic() + _MOST_S
    with httpx.Client(base_url=base, headers=headers, timeout=30, trust_env=False) as client:
        for number in range(_TASKS):
            client.post("/v1/tasks", json={"prompt": f"picture {number} of many, " * 40}).raise_for_status()
        while len(_stored(client)) < _TASKS:
            if time.monotonic() > until:
                raise TimeoutError(f"the images were not stored within {_MOST_S:.0f} s: see {service.folder}")
            time.sleep(0.1)


def _stored(client: httpx.Client) -> list[Any]:
    found: list[Any] = (
        client.get("/v1/tasks", params={"status": "stored", "limit": 50}).raise_for_status().json()["tasks"]
    )
    return found


def _order() -> bytes:
    headers = {"x-key": "another-account", "content-type": "application/json", "accept": "*/*"}
    return request("POST", "/v1/flux-kontext-pro", headers, b'{"prompt": "%s"}' % (b"a picture of many, " * 50))


async def _rows(url: str) -> list[dict[str, Any]]:
    """What the record knows of each task that was stored."""
    query = (
        select(tasks.c.ready_at, tasks.c.stored_at, results.c.bytes, submissions.c.asked_at, submissions.c.answered_at)
        .join(results, results.c.task_id == tasks.c.id)
        .join(submissions, submissions.c.task_id == tasks.c.id)
    )

    def read(connection: Connection) -> list[dict[str, Any]]:
        return [row._asdict() for row in connection.execute(query)]

    async with open_database(url) as database:
        return await database.read(read)


def _ms(span: timedelta) -> float:
    return span / timedelta(milliseconds=1)
