"""The servers that ours is measured beside, each a process: `python -m app.bench.servers KIND PORT [URL IDS]`.

All run under uvicorn as ours does: one worker, uvloop, httptools, no access log.
"""

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from app.bench import processes
from app.bench.bare import bare, hmac_only
from app.bench.naive import naive
from app.bench.processes import Process


@contextmanager
def reference(kind: str, folder: Path, *more: str) -> Generator[Process]:
    """One of them, running until the block ends. `naive` wants the address of an empty database and a file of ids."""
    port = processes.free_port()
    arguments = ["app.bench.servers", kind, str(port), *more]
    with processes.running(arguments, port, folder / f"{kind}.log", path="/") as process:
        yield process


def _app(kind: str, more: list[str]) -> Any:
    kinds: dict[str, Callable[..., Any]] = {
        "bare": lambda: bare,
        "hmac": hmac_only,
        "naive": lambda url, ids: naive(url, Path(ids).read_text().split()),
    }
    return kinds[kind](*more)


def main() -> int:
    kind, port, *more = sys.argv[1:]
    config = uvicorn.Config(
        _app(kind, more), host="127.0.0.1", port=int(port), access_log=False, log_config=None, server_header=False
    )
    uvicorn.Server(config).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
