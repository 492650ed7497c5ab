"""Measured processes: started on a loopback port, observed through /proc, killed by their id."""

import http.client
import os
import random  # noqa: TID251 - chooses free ports
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from app.errors import FluxhookError

_ROOT = Path(__file__).resolve().parents[1]
_PORTS = range(10_000, 20_000)
_START_S = 120.0  # a start takes two seconds, on a busy machine far longer
_STOP_S = 60.0
_TICKS = os.sysconf("SC_CLK_TCK")
WAY = 10  # the niceness of a process that gives way
_OWN_SETTINGS = ("FLUXHOOK_", "OTEL_")


class NotStarted(FluxhookError):
    """A server ended, or took too long, before it answered; the text is the end of its log."""


@dataclass
class Process:
    """A server process on `port`, with its output in `log`."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    is_warm: bool = False  # it has answered requests, so its caches are filled

    @property
    def pid(self) -> int:
        return self.process.pid

    def await_answer(self, path: str = "/healthz") -> None:
        """Wait until the server answers. Raises NotStarted if it ends instead or takes too long."""
        until = time.monotonic() + _START_S
        while self.process.poll() is None and time.monotonic() < until:
            if _answers(self.port, path):
                return
            time.sleep(0.03)
        raise NotStarted(self.log.read_text(errors="replace").strip()[-800:])

    def kill(self) -> None:
        """Send `kill -9` and wait for the end of the process."""
        self.process.kill()
        self.process.wait(_STOP_S)


def launch(arguments: Sequence[str], port: int, log: Path, env: Mapping[str, str] | None = None) -> Process:
    """Run `python -m` with these arguments; no FLUXHOOK_ or OTEL_ setting is inherited."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OWN_SETTINGS)}
    with log.open("ab") as out:
        process = subprocess.Popen(  # noqa: S603 - our own modules
            [sys.executable, "-m", *arguments],
            cwd=_ROOT,
            env={**inherited, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,  # Ctrl-C goes only to the parent, which then kills it
        )
    return Process(process, port, log)


@contextmanager
def running(arguments: Sequence[str], log: Path, *, gives_way: bool = False) -> Generator[Process]:
    """Launch on a free port, appended to the arguments; kill after the block. Does not wait for an answer."""
    port = free_port()
    process = launch([*arguments, str(port)], port, log)
    if gives_way:  # its other threads start later and inherit this
        os.setpriority(os.PRIO_PROCESS, process.pid, WAY)
    try:
        yield process
    finally:
        stop(process.process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Kill the process; its data is deleted with its folder."""
    if process.poll() is None:
        process.kill()
        process.wait(_STOP_S)
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def free_port() -> int:
    """Return a port below those that the system gives to sockets, so that none gets it before the server listens."""
    while True:
        port = random.choice(_PORTS)  # noqa: S311 - only to avoid others
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of a process so far, over all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def cpu_seconds_with_children(pid: int) -> float:
    """Return the CPU seconds of a process so far, with those of its children, living and ended."""
    own = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    living = sum(int(child[11]) + int(child[12]) for child in _stat_fields() if int(child[1]) == pid)
    return (sum(int(own[number]) for number in range(11, 15)) + living) / _TICKS


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def reset_peak(pid: int) -> None:
    """Reset `VmHWM`, the peak of a process's memory."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def memory_mb(pid: int, field: str = "VmRSS") -> float:
    """Return the resident memory of a process in MiB, or its peak (`VmHWM`)."""
    status = Path(f"/proc/{pid}/status").read_text()
    (kilobytes,) = (line.split()[1] for line in status.splitlines() if line.startswith(f"{field}:"))
    return int(kilobytes) / 1024


def _stat_fields() -> Generator[list[str]]:
    """Yield the fields after the name in /proc/PID/stat of each process that still runs."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            yield (process / "stat").read_text().rpartition(")")[2].split()


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True
