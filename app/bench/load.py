"""The load generator, a process of its own: `python -m app.bench.load PLAN`.

It keeps so many connections, sends requests that were built before, reads no more of an answer than its status and
its length, and notes for each request what was answered and how long it took. Loopback only.
"""

import asyncio
import json
import signal
import sys
from array import array
from collections import deque
from collections.abc import Coroutine, Iterable
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol, cast

import uvloop

from app.bench.arrivals import poisson
from app.bench.pacer import Pacer
from app.bench.plan import Plan, read_plan, read_requests
from app.bench.wire import answer

_AGAIN_S = 0.02  # until a connection is tried again that was refused
NONE = 0  # the status of a request that was not answered


class Turns(Protocol):
    """Who decides what a connection sends next."""

    def ready(self, connection: "Connection") -> None:
        """This connection waits for nothing."""
        ...

    def left(self) -> Iterable[float]:
        """When requests were due that found no connection to the end."""
        ...


class Load:
    """The requests, and what came of each that was sent: its status, and its latency in seconds."""

    def __init__(self, plan: Plan, requests: list[bytes]) -> None:
        self.plan, self.requests = plan, requests
        self.most = sys.maxsize if plan.repeat else len(requests)
        self.statuses: list[int] = []
        self.latencies: list[float] = []
        self.done = asyncio.Event()
        self.began = self.ended = 0.0
        self.fault: dict[str, Any] | None = None
        self._turns: Turns | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, turns: Turns) -> None:
        self.began = self.ended = perf_counter()
        self._turns = turns

    def ready(self, connection: "Connection") -> None:
        """All are connected before the first one sends."""
        if self._turns is not None:
            self._turns.ready(connection)

    @property
    def over(self) -> bool:
        return len(self.statuses) >= self.most or perf_counter() - self.began >= self.plan.seconds

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def fail(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What goes wrong in a callback of the loop would otherwise look as if nothing were answered."""
        self.fault = context
        self.done.set()

    def end(self) -> None:
        """Nothing is dropped: what was never sent is there, not answered, with the time that it waited."""
        self.done.set()
        for task in self._tasks:
            task.cancel()
        now = perf_counter()
        for due in self._turns.left() if self._turns else ():
            self.statuses.append(NONE)
            self.latencies.append(now - due)


class Connection(asyncio.Protocol):
    """One request at a time; connected again when the server went away."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._transport: asyncio.Transport | None = None
        self._connecting = False
        self._leaving = 0  # connections that we closed ourselves and that are not gone yet
        self._busy = False
        self._number = 0
        self._sent_at = 0.0
        self._request = b""
        self._pending = b""  # an answer that is not whole

    async def connect(self) -> None:
        self._connecting = True
        while not self._load.done.is_set():
            try:
                await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", self._load.plan.port)
            except OSError:
                await asyncio.sleep(_AGAIN_S)
            else:
                return

    def send(self, due: float) -> None:
        """Send the next request; its latency counts from `due`."""
        load = self._load
        self._number = len(load.statuses)
        self._request = load.requests[self._number % len(load.requests)]
        load.statuses.append(NONE)
        load.latencies.append(0.0)
        self._sent_at, self._busy = due, True
        if self._transport is not None:
            self._transport.write(self._request)
        elif not self._connecting:
            load.spawn(self.connect())

    def give_up(self) -> None:
        """The request in hand is not answered any more."""
        if self._busy:
            self._load.latencies[self._number] = perf_counter() - self._sent_at
            self._busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one, and no subclass
        self._connecting, self._pending = False, b""
        if self._busy:
            self._transport.write(self._request)
        else:
            self._load.ready(self)

    def data_received(self, data: bytes) -> None:
        if self._pending:
            data = self._pending + data
        found = answer(data)
        if found is None or len(data) < found[1]:
            self._pending = data
            return
        load, now = self._load, perf_counter()
        load.latencies[self._number] = now - self._sent_at
        load.statuses[self._number] = found[0]
        load.ended = now
        self._pending, self._busy = b"", False
        if load.plan.fresh and self._transport is not None:
            self._leaving += 1
            self._transport.close()
            self._transport = None
        load.ready(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - whatever it was, it is gone
        if self._leaving:
            self._leaving -= 1
            return
        self.give_up()
        self._transport = None
        if not self._load.done.is_set():
            self._load.spawn(self.connect())


class Closed:
    """Each connection sends as soon as it was answered."""

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

    def left(self) -> Iterable[float]:
        return ()


class Open:
    """Requests are due at their own times. One that finds no free connection waits, and that is part of its latency."""

    def __init__(self, load: Load, rate: float) -> None:
        self._load = load
        self._due = poisson(rate, load.plan.seconds)[: load.most]
        self._next = 0
        self._free: deque[Connection] = deque()
        self._late: deque[float] = deque()
        self._pacer = Pacer(asyncio.get_running_loop(), self._arrived)
        self._pacer.arm(0)

    def ready(self, connection: Connection) -> None:
        if self._late:
            connection.send(self._late.popleft())
            return
        if connection not in self._free:  # it may have been lost while it was free
            # The one that rested longest goes next, so that none rests until the server closes it.
            self._free.append(connection)
        self._end_if_over()

    def left(self) -> Iterable[float]:
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
            self._pacer.close()
            self._end_if_over()

    def _end_if_over(self) -> None:
        if self._next == len(self._due) and len(self._free) == self._load.plan.connections:
            self._load.done.set()


async def generate(plan: Plan, requests: list[bytes]) -> Load:
    """Send as planned, and wait for the answers, those of the last requests for a bounded time."""
    load = Load(plan, requests)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(load.fail)
    loop.add_signal_handler(signal.SIGTERM, load.done.set)  # what was sent until then is told all the same
    connections = [Connection(load) for _ in range(plan.connections)]
    await asyncio.gather(*(connection.connect() for connection in connections if not plan.fresh))
    Path(plan.outcomes).touch()  # which tells that it begins
    load.begin(Closed(load) if plan.rate is None else Open(load, plan.rate))
    for connection in connections:
        load.ready(connection)
    try:
        async with asyncio.timeout(plan.seconds + plan.grace_s):
            await load.done.wait()
    except TimeoutError:
        pass  # what was not answered by now says so by its status
    load.end()
    for connection in connections:
        connection.give_up()
    if load.fault is not None:
        raise RuntimeError(load.fault["message"]) from load.fault.get("exception")
    return load


def main() -> int:
    plan = read_plan(Path(sys.argv[1]))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        load = runner.run(generate(plan, read_requests(Path(plan.requests))))
    with Path(plan.outcomes).open("wb") as out:
        array("H", load.statuses).tofile(out)
        array("d", load.latencies).tofile(out)
    sys.stdout.write(json.dumps({"sent": len(load.statuses), "seconds": load.ended - load.began}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
