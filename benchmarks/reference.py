"""The servers beside ours, each a process until the block ends."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from benchmarks import processes
from benchmarks.processes import Process


@contextmanager
def reference(kind: Literal["bare", "hmac", "naive"], folder: Path, more: Sequence[str] = ()) -> Generator[Process]:
    """One of them; `naive` wants the address of an empty database, and a file of the ids of its tasks."""
    with processes.running(["benchmarks.servers", kind, *more], folder / f"{kind}.log") as process:
        yield process
