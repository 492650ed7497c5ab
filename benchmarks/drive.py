"""The caller's side of the generator: requests in, what came of each out."""

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
_START_S = 30.0


class Broken(FluxhookError):
    """The generator did not do its work; the text says why."""


@dataclass(frozen=True)
class Outcome:
    """What came of each request that was sent, in the order of sending, and how long it all took."""

    seconds: float  # from the first request to the last answer
    statuses: Sequence[int]  # 0: not answered
    # Seconds; counted from when it was due where there was a rate. What was not answered waited at least as long.
    latencies: Sequence[float] = field(repr=False)
    cpu_s: float = 0.0  # what the server's process used meanwhile
    own_cpu_s: float = 0.0  # and the generator's

    @cached_property
    def counts(self) -> Counter[int]:
        return Counter(self.statuses)

    @property
    def answered(self) -> int:
        return len(self.statuses) - self.counts[0]

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.answered / self.seconds if self.seconds else 0.0

    @property
    def cpu_us(self) -> float:
        """Microseconds of the server's process for each answer."""
        return self.cpu_s / self.answered * 1e6 if self.answered else 0.0

    @property
    def own_cpu_us(self) -> float:
        """Microseconds of the generator for each answer: where the server takes less, it is not the server's limit."""
        return self.own_cpu_s / self.answered * 1e6 if self.answered else 0.0

    @property
    def acknowledged(self) -> list[int]:
        """Which requests, by number, were answered with 200."""
        return [number for number, status in enumerate(self.statuses) if status == _OK]

    def ms(self, share: float, numbers: Sequence[int] | None = None) -> float:
        """This percentile (0 to 1) of the latency of these requests, or of all."""
        chosen = self.latencies if numbers is None else [self.latencies[each] for each in numbers]
        return percentile(chosen, share) * 1000


class Drive:
    """Starts generators; their files lie in `folder`."""

    def __init__(self, folder: Path, connections: int) -> None:
        self._folder, self._connections, self._runs = folder, connections, 0

    def start(self, port: int, requests: Sequence[bytes], seconds: float, **how: object) -> "Running":
        """A generator that is under way; `how` has what else a Plan holds."""
        self._runs += 1
        files = [self._folder / f"{self._runs}.{kind}" for kind in ("plan", "requests", "outcomes")]
        plan_file, requests_file, outcomes_file = files
        write_requests(requests_file, list(requests))
        told = {"connections": self._connections, **how}
        plan = Plan(port, str(requests_file), str(outcomes_file), seconds, **told)  # type: ignore[arg-type]
        write_plan(plan_file, plan)
        return Running(plan, files)

    def run(self, port: int, pid: int, requests: Sequence[bytes], seconds: float, **how: object) -> Outcome:
        """The whole of one: send, wait, and see what the process `pid` took for it."""
        with self.start(port, requests, seconds, **how) as running:
            return running.outcome(lambda: cpu_seconds(pid))


class Running:
    """A generator's process. Leaving the block ends it."""

    def __init__(self, plan: Plan, files: Sequence[Path]) -> None:
        self._plan, self._files = plan, files
        self._process = subprocess.Popen(  # noqa: S603 - ourselves
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
        """Wait until it sends."""
        until = time.monotonic() + _START_S
        while self._process.poll() is None and not Path(self._plan.outcomes).exists():
            if time.monotonic() > until:
                raise Broken("the load generator could not connect")
            time.sleep(0.01)

    def finish(self) -> Outcome:
        """Have it send no more, and read what it wrote."""
        self._process.terminate()
        return self.outcome()

    def outcome(self, cpu: Callable[[], float] = lambda: 0.0) -> Outcome:
        """Wait for its end and read what it wrote."""
        before = cpu()
        said, complaint = self._process.communicate(timeout=self._plan.seconds + self._plan.grace_s + _START_S)
        if self._process.returncode:
            raise Broken(complaint.decode(errors="replace").strip()[-500:] or "the load generator was killed")
        summary = json.loads(said)
        statuses, latencies = array("H"), array("d")
        with Path(self._plan.outcomes).open("rb") as found:
            statuses.fromfile(found, summary["sent"])
            latencies.fromfile(found, summary["sent"])
        return Outcome(summary["seconds"], statuses, latencies, cpu() - before, summary["own_cpu_s"])
