"""Processes that are measured: started on a port of loopback, looked at through /proc, ended by their id."""

import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.errors import FluxhookError

_ROOT = Path(__file__).resolve().parents[1]
_START_S = 60.0  # a start takes two seconds; a busy machine takes its time
_STOP_S = 15.0
_TICKS = os.sysconf("SC_CLK_TCK")
_OWN_SETTINGS = ("FLUXHOOK_", "OTEL_")


class NotStarted(FluxhookError):
    """A server that ended before it answered; the text is the end of its log."""


@dataclass
class Process:
    """A server that is to answer on `port`; what it writes goes to `log`."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    is_warm: bool = False  # it has loaded and prepared what it needs

    @property
    def pid(self) -> int:
        return self.process.pid

    def await_answer(self, path: str = "/healthz") -> None:
        """Raises NotStarted where it ends instead, or takes too long."""
        until = time.monotonic() + _START_S
        while self.process.poll() is None and time.monotonic() < until:
            if _answers(self.port, path):
                return
            time.sleep(0.03)
        raise NotStarted(self.log.read_text(errors="replace").strip()[-800:])

    def kill(self) -> None:
        """`kill -9`, and wait until it is gone."""
        self.process.kill()
        self.process.wait(_STOP_S)


def launch(arguments: Sequence[str], port: int, log: Path, env: Mapping[str, str] | None = None) -> Process:
    """Run `python -m` with these arguments and no settings but these."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OWN_SETTINGS)}
    with log.open("ab") as out:
        process = subprocess.Popen(  # noqa: S603 - ourselves
            [sys.executable, "-m", *arguments],
            cwd=_ROOT,
            env={**inherited, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,  # Ctrl-C is for whoever started it, who then ends it
        )
    return Process(process, port, log)


@contextmanager
def running(arguments: Sequence[str], log: Path) -> Generator[Process]:
    """The same on a free port, which follows the arguments, ended with the block. Who needs it waits for its answer."""
    port = free_port()
    started = launch([*arguments, str(port)], port, log)
    try:
        yield started
    finally:
        stop(started.process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End it at once: what it leaves is thrown away with its folder."""
    if process.poll() is None:
        process.kill()
        process.wait(_STOP_S)
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def cpu_seconds(pid: int) -> float:
    """What a process used of the processors so far, in all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def reset_peak(pid: int) -> None:
    """Have `VmHWM` count from now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def memory_mb(pid: int, what: str = "VmRSS") -> float:
    """What it holds of memory now, or `VmHWM`: held at most."""
    status = Path(f"/proc/{pid}/status").read_text()
    (kilobytes,) = (line.split()[1] for line in status.splitlines() if line.startswith(f"{what}:"))
    return int(kilobytes) / 1024


def _answers(port: int, path: str) -> bool:
    asked = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        asked.request("GET", path)
        asked.getresponse().read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        asked.close()
    return True
