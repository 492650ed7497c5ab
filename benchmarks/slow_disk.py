"""The rate on a disk with slow flushes, compared with the normal rate."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks import postgres_server
from benchmarks.databases import Postgres
from benchmarks.figures import median
from benchmarks.ours import Ours
from benchmarks.slow_flush import LeftOut, library
from benchmarks.stage import Stage


def slow_disk(stage: Stage, delay_ms: float) -> dict[str, float]:
    """Alternate rounds with normal and slow flushes. Raises LeftOut if flushes cannot be slowed."""
    folder = stage.ours.folder / "slow"
    folder.mkdir()
    with _slowed(stage, folder, library(folder, delay_ms)) as slow:
        slow.full_load()
        rounds = [(stage.full_load().rate, slow.full_load().rate) for _ in range(stage.rounds)]
        stage.acknowledged += slow.acknowledged
        stage.unstored += slow.unstored
    return {
        "slow_flush_ms": delay_ms,
        "slow_flush_share": median([slow_rate / rate for rate, slow_rate in rounds]),
        "slow_flush_rate": median([slow_rate for _, slow_rate in rounds]),
    }


@contextmanager
def _slowed(stage: Stage, folder: Path, preload: Path) -> Generator[Stage]:
    """Run a second service with slow flushes: its own on SQLite, those of a second server on PostgreSQL."""
    env = {"LD_PRELOAD": str(preload)}
    if stage.ours.url.startswith("sqlite:"):
        with stage.another() as url, _service(stage, folder, url, env) as slow:
            yield slow
        return
    with postgres_server.running(durable=True, env=env) as server:
        if isinstance(server, str):
            raise LeftOut(server)
        with Postgres(server.dsn).database() as url, _service(stage, folder, url, {}) as slow:
            yield slow


@contextmanager
def _service(stage: Stage, folder: Path, url: str, env: dict[str, str]) -> Generator[Stage]:
    with Ours("slow", folder, url, stage.ours.signing_key_id, env=env).running() as ours:
        ours.await_answer()
        yield replace(stage, ours=ours, acknowledged=0, unstored=0)
