"""Describes the machine, and how busy it was during the run."""

import os
import platform
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

_NOISY_LOAD = 0.5  # per processor, before the run starts anything
_NOISY_STEAL = 0.02


@dataclass(frozen=True, slots=True)
class Ticks:
    """CPU time of all processors since boot in ticks, from /proc/stat."""

    all: int
    idle: int
    stolen: int

    @classmethod
    def now(cls) -> "Ticks":
        spent = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
        return cls(all=sum(spent[:8]), idle=spent[3] + spent[4], stolen=spent[7])


class Watch:
    """Observes how busy the machine is, from the creation of this object."""

    def __init__(self) -> None:
        self.load_before = os.getloadavg()[0]
        self._began, self._before = perf_counter(), Ticks.now()

    def report(self) -> dict[str, object]:
        now, before = Ticks.now(), self._before
        spent = max(1, now.all - before.all)
        stolen = (now.stolen - before.stolen) / spent
        processors = os.cpu_count() or 1
        return {
            "processors": processors,
            "processor": _processor(),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
            "load_before": round(self.load_before, 2),
            "idle_share": round((now.idle - before.idle) / spent, 3),
            "stolen_share": round(stolen, 4),
            "seconds": round(perf_counter() - self._began, 1),
            "noisy": self.load_before > _NOISY_LOAD * processors or stolen > _NOISY_STEAL,
        }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model")))
    return next(names, platform.machine())
