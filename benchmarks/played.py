"""Whole tasks: the service with its worker on an empty database, and the provider's twin."""

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from app.errors import FluxhookError
from benchmarks import processes
from benchmarks.ours import ADMIN_KEY, Ours
from benchmarks.processes import Process
from benchmarks.stage import Stage

_READY_AFTER_S = 2  # the time that the twin takes for each task
_MAX_S = 300.0


class TooSlow(FluxhookError):
    """The tasks did not reach their state in time."""


@dataclass(frozen=True, slots=True)
class Played:
    twin: Process
    service: Ours

    def until_all(self, status: str, posts: Sequence[Mapping[str, Any]]) -> None:
        """Post these tasks one after another, and wait until all have this status. Raises TooSlow after 300 s."""
        base, headers = f"http://127.0.0.1:{self.service.port}", {"authorization": f"Bearer {ADMIN_KEY}"}
        until = time.monotonic() + _MAX_S
        with httpx.Client(base_url=base, headers=headers, timeout=60, trust_env=False) as client:
            for post in posts:
                client.post("/v1/tasks", json=post).raise_for_status()
            while _count(client, status) < len(posts):
                if time.monotonic() > until:
                    raise TooSlow(f"the tasks were not {status} within {_MAX_S:.0f} s")
                time.sleep(0.1)


@contextmanager
def played(stage: Stage, name: str) -> Generator[Played]:
    """Run twin and service until the block ends."""
    folder = stage.ours.folder / name
    folder.mkdir()
    arguments = ["benchmarks.servers", "twin", str(_READY_AFTER_S)]
    with processes.running(arguments, folder / "twin.log") as twin, stage.another() as url:
        env = {"FLUXHOOK_BFL_BASE_URL": f"http://127.0.0.1:{twin.port}"}
        with Ours(name, folder, url, stage.ours.signing_key_id, env=env, arguments=("serve",)).running() as service:
            twin.await_answer()
            service.await_answer()
            yield Played(twin, service)


def _count(client: httpx.Client, status: str) -> int:
    answer = client.get("/v1/tasks", params={"status": status, "limit": 100}).raise_for_status()
    return len(answer.json()["tasks"])
