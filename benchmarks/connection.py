"""The connections of the load generator, which record the status and latency of each request sent."""

import asyncio
import sys
from collections.abc import Coroutine, Iterable
from time import perf_counter
from typing import Any, Protocol, cast

from benchmarks.plan import Plan
from benchmarks.wire import answer

_RECONNECT_S = 0.02  # delay after a refused connection
NONE = 0  # the status of an unanswered request


class Turns(Protocol):
    """Decides what a connection sends next."""

    def ready(self, connection: "Connection") -> None:
        """This connection is idle and may send."""
        ...

    def end(self) -> Iterable[float]:
        """Stop, and return the due times of requests that found no free connection."""
        ...


class Load:
    """The requests, and the status and latency in seconds of each one sent."""

    def __init__(self, plan: Plan, requests: list[bytes]) -> None:
        self.plan, self.requests = plan, requests
        self.max_requests = sys.maxsize if plan.repeat else len(requests)
        self.statuses: list[int] = []
        self.latencies: list[float] = []
        self.done = asyncio.Event()
        self.began = self.ended = 0.0
        self.cpu_s = 0.0  # of this process
        self.fault: dict[str, Any] | None = None
        self._turns: Turns | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, turns: Turns) -> None:
        self.began = self.ended = perf_counter()
        self._turns = turns

    def ready(self, connection: "Connection") -> None:
        """Ignored until `begin`: all connections are open before the first request is sent."""
        if self._turns is not None:
            self._turns.ready(connection)

    @property
    def over(self) -> bool:
        return len(self.statuses) >= self.max_requests or perf_counter() - self.began >= self.plan.seconds

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def fail(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Handle an exception in a callback of the loop, which would otherwise look like unanswered requests."""
        self.fault = context
        self.done.set()

    def end(self) -> None:
        """Record requests that were due but never sent as unanswered, with the time that they waited."""
        self.done.set()
        for task in self._tasks:
            task.cancel()
        now = perf_counter()
        for due in self._turns.end() if self._turns else ():
            self.statuses.append(NONE)
            self.latencies.append(now - due)


class Connection(asyncio.Protocol):
    """One request at a time; reconnects after the server closes the connection."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._transport: asyncio.Transport | None = None
        self._connecting = False
        self._leaving = 0  # connections closed by this side and not yet reported as lost
        self._busy = False
        self._number = 0
        self._sent_at = 0.0
        self._request = b""
        self._pending = b""  # the start of an incomplete answer

    async def connect(self) -> None:
        self._connecting = True
        while not self._load.done.is_set():
            try:
                await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", self._load.plan.port)
            except OSError:
                await asyncio.sleep(_RECONNECT_S)
            else:
                return

    def send(self, due: float) -> None:
        """Send the next request; its latency is measured from `due`."""
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

    def leave(self) -> None:
        """Give up the current request and close the connection."""
        self.give_up()
        if self._transport is not None:
            self._transport.abort()

    def give_up(self) -> None:
        """Record the current request as unanswered."""
        if self._busy:
            self._load.latencies[self._number] = perf_counter() - self._sent_at
            self._busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's transport has the methods but is no subclass
        self._connecting, self._pending = False, b""
        if self._busy:
            self._transport.write(self._request)
        else:
            self._load.ready(self)

    def data_received(self, data: bytes) -> None:
        if self._pending:
            data = self._pending + data
        head = answer(data)
        if head is None or len(data) < head[1]:
            self._pending = data
            return
        load, now = self._load, perf_counter()
        load.latencies[self._number] = now - self._sent_at
        load.statuses[self._number] = head[0]
        load.ended = now
        self._pending, self._busy = b"", False
        if load.plan.fresh and self._transport is not None:
            self._leaving += 1
            self._transport.close()
            self._transport = None
        load.ready(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the reason does not matter
        if self._leaving:
            self._leaving -= 1
            return
        self.give_up()
        self._transport = None
        if not self._load.done.is_set():
            self._load.spawn(self.connect())
