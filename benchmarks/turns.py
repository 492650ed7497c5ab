"""When connections send: after each answer (closed loop), or at due times (open loop)."""

import asyncio
from collections import deque
from collections.abc import Iterable
from time import perf_counter

from benchmarks.arrivals import poisson
from benchmarks.connection import Connection, Load
from benchmarks.pacer import Pacer


class Closed:
    """Closed loop: each connection sends as soon as its answer has arrived."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._idle: set[Connection] = set()

    def ready(self, connection: Connection) -> None:
        if not self._load.over:
            connection.send(perf_counter())
            return
        self._idle.add(connection)
        if len(self._idle) == self._load.plan.connections:
            self._load.done.set()

    def end(self) -> Iterable[float]:
        return ()


class Open:
    """Open loop: requests are due at given times. Waiting for a free connection is part of the latency."""

    def __init__(self, load: Load, rate: float) -> None:
        self._load = load
        self._due = poisson(rate, load.plan.seconds)[: load.max_requests]
        self._next = 0
        self._free: deque[Connection] = deque()
        self._late: deque[float] = deque()
        self._pacer = Pacer(asyncio.get_running_loop(), self._arrived)
        self._pacer.arm(0)

    def ready(self, connection: Connection) -> None:
        if self._late:
            connection.send(self._late.popleft())
            return
        if connection not in self._free:  # a free connection can be lost and reconnected
            # The longest idle connection is used next, so the server closes none for idleness.
            self._free.append(connection)
        self._end_if_over()

    def end(self) -> Iterable[float]:
        self._pacer.close()
        return self._late

    def _arrived(self) -> None:
        began, now = self._load.began, perf_counter()
        while self._next < len(self._due) and (due := began + self._due[self._next]) <= now:
            self._next += 1
            if self._free:
                self._free.popleft().send(due)
            else:
                self._late.append(due)
        if self._next < len(self._due):
            self._pacer.arm(began + self._due[self._next] - perf_counter())
        else:
            self._end_if_over()

    def _end_if_over(self) -> None:
        if self._next == len(self._due) and len(self._free) == self._load.plan.connections:
            self._load.done.set()
