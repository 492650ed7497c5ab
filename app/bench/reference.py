"""The servers beside ours, each a process until the block ends."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from app.bench import processes
from app.bench.processes import Process


@contextmanager
def reference(kind: Literal["bare", "hmac", "naive"], folder: Path, *more: str) -> Generator[Process]:
    """One of them; `naive` wants the address of an empty database, and a file of the ids of its tasks."""
    port = processes.free_port()
    arguments = ["app.bench.servers", kind, str(port), *more]
    with processes.running(arguments, port, folder / f"{kind}.log", path="/") as process:
        yield process
