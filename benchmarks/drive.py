"""Starts load generators and reads their outcomes."""

import json
import subprocess
import sys
import time
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Self

from app.errors import FluxhookError
from benchmarks.figures import percentile
from benchmarks.plan import Plan, write_plan, write_requests
from benchmarks.processes import cpu_seconds, stop

_OK = 200
_START_S = 120.0


class Broken(FluxhookError):
    """The load generator failed; the text gives the reason."""


@dataclass(frozen=True)
class Outcome:
    """Status and latency of each request, in the order of sending, and the duration of the whole run."""

    seconds: float  # from the first request to the last answer
    statuses: Sequence[int]  # 0: unanswered
    # Seconds; from its due time if there is a rate. An unanswered request waited at least this long.
    latencies: Sequence[float] = field(repr=False)
    cpu_s: float = 0.0  # CPU seconds of the server process during the run
    own_cpu_s: float = 0.0  # CPU seconds of the generator

    @cached_property
    def counts(self) -> Counter[int]:
        return Counter(self.statuses)

    @property
    def answered(self) -> int:
        return len(self.statuses) - self.counts[0]

    @property
    def rate(self) -> float:
        """Answers per second."""
        return self.answered / self.seconds if self.seconds else 0.0

    @property
    def cpu_us(self) -> float:
        """CPU microseconds of the server process per answer."""
        return self.cpu_s / self.answered * 1e6 if self.answered else 0.0

    @property
    def own_cpu_us(self) -> float:
        """CPU microseconds of the generator per answer; if the server uses less, the generator limits the rate."""
        return self.own_cpu_s / self.answered * 1e6 if self.answered else 0.0

    @property
    def acknowledged(self) -> list[int]:
        """The numbers of the requests that were answered with 200."""
        return [number for number, status in enumerate(self.statuses) if status == _OK]

    def ms(self, share: float, numbers: Sequence[int] | None = None) -> float:
        """Return this percentile (0 to 1) of the latency of these requests, or of all, in milliseconds."""
        chosen = self.latencies if numbers is None else [self.latencies[number] for number in numbers]
        return percentile(chosen, share) * 1000


class Drive:
    """Starts load generators, with their files in `folder`."""

    def __init__(self, folder: Path, connections: int) -> None:
        self._folder, self._connections, self._runs = folder, connections, 0

    def start(self, port: int, requests: Sequence[bytes], seconds: float, **fields: object) -> "Running":
        """Start a generator; `fields` has further fields of its Plan."""
        self._runs += 1
        files = [self._folder / f"{self._runs}.{kind}" for kind in ("plan", "requests", "outcomes")]
        plan_file, requests_file, outcomes_file = files
        write_requests(requests_file, list(requests))
        all_fields = {"connections": self._connections, **fields}
        plan = Plan(port, str(requests_file), str(outcomes_file), seconds, **all_fields)  # type: ignore[arg-type]
        write_plan(plan_file, plan)
        return Running(plan, files)

    def run(self, port: int, pid: int, requests: Sequence[bytes], seconds: float, **fields: object) -> Outcome:
        """Run a generator to its end, and measure the CPU time of the server process `pid` during the run."""
        with self.start(port, requests, seconds, **fields) as running:
            return running.outcome(lambda: cpu_seconds(pid))


class Running:
    """A generator process, which is killed after the block."""

    def __init__(self, plan: Plan, files: Sequence[Path]) -> None:
        self._plan, self._files = plan, files
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", "benchmarks.load", str(files[0])],
            cwd=Path(__file__).resolve().parents[1],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        stop(self._process)
        for file in self._files:
            file.unlink(missing_ok=True)

    def await_first(self) -> None:
        """Wait until all connections are open and sending begins. Raises Broken if that takes too long."""
        until = time.monotonic() + _START_S
        while self._process.poll() is None and not Path(self._plan.outcomes).exists():
            if time.monotonic() > until:
                raise Broken("the load generator could not connect")
            time.sleep(0.01)

    def finish(self) -> Outcome:
        """Stop sending, and return the outcome."""
        self._process.terminate()
        return self.outcome()

    def outcome(self, cpu: Callable[[], float] = lambda: 0.0) -> Outcome:
        """Wait for the end of the process and return the outcome. Raises Broken if the process failed."""
        before = cpu()
        output, errors = self._process.communicate(timeout=self._plan.seconds + self._plan.grace_s + _START_S)
        if self._process.returncode:
            raise Broken(errors.decode(errors="replace").strip()[-500:] or "the load generator was killed")
        summary = json.loads(output)
        statuses, latencies = array("H"), array("d")
        with Path(self._plan.outcomes).open("rb") as file:
            statuses.fromfile(file, summary["sent"])
            latencies.fromfile(file, summary["sent"])
        return Outcome(summary["seconds"], statuses, latencies, cpu() - before, summary["own_cpu_s"])
