"""The reference servers, each as a process."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from benchmarks import processes
from benchmarks.processes import Process


@contextmanager
def reference(
    kind: Literal["bare", "hmac", "naive"], folder: Path, arguments: Sequence[str] = ()
) -> Generator[Process]:
    """Run a reference server for the block; `naive` needs the address of an empty database and a file of ids."""
    with processes.running(["benchmarks.servers", kind, *arguments], folder / f"{kind}.log") as process:
        yield process
